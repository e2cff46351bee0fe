"""Partitions of the tasks over the copies of a layer: which tasks share one, and how much conflict that leaves."""
