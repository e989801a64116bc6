"""raysel: which multilingual samples to train on, and what that did in every language."""

__version__ = "0.1.0"
