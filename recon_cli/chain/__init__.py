"""`recon run`: profile, rank, split, train and compare, each step once as long as what it takes is the same."""
