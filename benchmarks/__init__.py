"""What Recon costs, as ratios within one run; `make bench`."""
