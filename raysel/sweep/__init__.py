"""Searching over experiments: every trial is an experiment file with changed keys, and no artifact is made twice."""
