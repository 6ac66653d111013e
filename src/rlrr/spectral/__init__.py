"""The spectral view: what fine-tuning did to the singular terms of the frozen weights."""
