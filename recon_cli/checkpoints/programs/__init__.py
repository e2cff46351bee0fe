"""The weights of files that hold a whole network, read without running it."""
