"""A run's folder: journal, blobs, checkpoints, derived metrics."""
