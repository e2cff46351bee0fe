"""The typed form of `recon.yaml`, with every error of a file reported at once."""
