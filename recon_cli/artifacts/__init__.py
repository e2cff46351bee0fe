"""What travels between commands: scores, rankings, comparisons and manifests, read strictly and published whole."""
