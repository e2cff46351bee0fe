"""Branched TorchScript: an archive whose graph is forked, and which plain torch loads."""
