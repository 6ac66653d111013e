"""Training: transformers' Trainer put to work on a timm model, from a recipe to an adapter folder."""
