"""What released evaluation codes compute, so that their figures can be judged: the metrics, and our networks' reports by them."""
