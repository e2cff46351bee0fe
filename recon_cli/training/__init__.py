"""`recon train`: a network trained and evaluated, from one seed or several, together or task by task."""
