"""Inference with a finished run: predictions and measurements."""
