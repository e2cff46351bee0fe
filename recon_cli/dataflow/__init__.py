"""What a forward pass does: which operations depend on which, on which tensors, and what they cost."""
