"""Scores to rankings, rankings to distances, and the policies that choose layers from a ranking."""
