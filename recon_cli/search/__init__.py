"""Searching an architecture: where each task leaves the layers that it shares with the others."""
