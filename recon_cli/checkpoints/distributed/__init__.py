"""Folders that `torch.distributed.checkpoint` wrote, read as data."""
