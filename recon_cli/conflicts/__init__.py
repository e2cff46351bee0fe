"""How conflicts are distributed in several runs, and by how much they were reduced."""
