"""`recon report`: what the documents hold, as one page for a browser or as single pictures."""
