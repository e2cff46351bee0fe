"""Training steps by an update rule: what the rule sees of the gradients, and what becomes of them."""
