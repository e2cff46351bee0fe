"""Task gradients of every shared layer, the products between them, and what is counted from those."""
