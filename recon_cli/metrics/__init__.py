"""How good a network is at a task, counted over batches and ranks."""
