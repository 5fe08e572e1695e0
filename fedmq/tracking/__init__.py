"""Rounds as they are committed, for metrics.jsonl and for trackers: TensorBoard, MLflow, Weights & Biases."""
