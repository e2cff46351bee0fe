"""A run that may be stopped at any moment and goes on from there: its folder, its state, the signals."""
