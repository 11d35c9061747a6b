"""Between PyTorch and this package; the only place that imports torch."""
