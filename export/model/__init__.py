"""The vision transformer, its checkpoints, and its runner in PyTorch."""
