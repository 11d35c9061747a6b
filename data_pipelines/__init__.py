"""Files to batches: TFDS builders, clip windows, augmentation and the Grain loader."""

import kimnet_jax  # noqa: F401  a command can be stopped from here on
