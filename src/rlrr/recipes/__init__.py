"""Recipes: what one training run is made of, and the packaged ones."""
