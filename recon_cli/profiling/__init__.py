"""A training run that is measured: which steps, what is counted of their Gram matrices, and what is kept of it."""
