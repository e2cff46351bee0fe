"""Which parts of a network are layers, how they are called, and which tasks reach them."""
