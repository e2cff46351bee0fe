"""The ways from the losses of a step to `.grad`, each for what a rule needs."""
