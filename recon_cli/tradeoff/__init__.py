"""Which layers to split, and for which groups of tasks, so that the most conflict goes for what it costs."""
