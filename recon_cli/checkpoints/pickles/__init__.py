"""Pickles read as inert data and written back: nothing that they name is imported, looked up or called."""
