"""What is in a file, shown as far as it can be read; nothing in it is run, and no tensor is built."""
