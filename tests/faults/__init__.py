"""`recon split` as a process, on disks that fill up, among signals and rivals, and in odd surroundings."""
