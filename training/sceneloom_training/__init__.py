"""Training: networks, checkpoints, and the import of published ones."""
