"""Ways of training against each other: their figures, and how much each improves on another."""
