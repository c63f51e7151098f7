"""Compiled steps on CUDA: a traced step, in chunks that are captured as CUDA graphs."""
