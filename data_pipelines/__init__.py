"""Files to batches: TFDS builders, clip windows, augmentation and the Grain loader."""
