"""How the tasks of one profile get along: which conflict, which may go together, and how that went over time."""
