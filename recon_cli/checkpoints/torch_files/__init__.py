"""Files that `torch.save` wrote: zip archives, the older form, and what lies in both, read without running anything."""
