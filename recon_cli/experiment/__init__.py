"""From a config to live objects: the model, the losses, the batches, the device."""
