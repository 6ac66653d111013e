"""Import and export of other formats: timm folders, ONNX, and the checkpoints of the paper's code."""
