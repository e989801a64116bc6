"""What an experiment costs on given machines: memory, operations and time, before any model file or GPU is there."""
