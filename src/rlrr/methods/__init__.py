"""Ways to fine-tune, by name: the table, how a model is made trainable, and what an adapted model can do."""
