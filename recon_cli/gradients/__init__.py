"""The gradients of all tasks in one pass over a network: their Gram matrices per layer, and their weighted sum."""
