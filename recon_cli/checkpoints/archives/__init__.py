"""Zip archives as torch writes them: members read as runs of bytes, and written at offsets that are known before."""
