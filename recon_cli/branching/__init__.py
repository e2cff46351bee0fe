"""Branching: the plan as pure data, the rewritten checkpoint, and the branched module."""
