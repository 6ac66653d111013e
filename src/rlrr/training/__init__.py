"""Training: the recipe, the optimiser's groups, and transformers' Trainer put to work on a timm model."""
