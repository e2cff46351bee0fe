"""Checkpoint formats: reading and writing tensors by their bytes."""
