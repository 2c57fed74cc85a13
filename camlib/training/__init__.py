"""Training: photos of classes, batches, what is learnt from, state and results."""
