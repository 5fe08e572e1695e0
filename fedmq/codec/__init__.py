"""Named tensors to bytes and back."""
