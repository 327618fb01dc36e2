"""What a training reads: checked files become tensors and batches."""
