"""Engine "fast": training, evaluation and generation without padding, on frozen weights of one precision."""
