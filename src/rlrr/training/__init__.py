"""Training of a timm model with transformers' Trainer, from a recipe to an adapter folder."""
