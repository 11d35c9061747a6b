"""What every other part stands on: joint names, pixel geometry, heatmaps, images. NumPy only at import."""
