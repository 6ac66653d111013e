"""Recipes: the options of one training run, and the packaged recipes."""
