"""What is made of results: the paper's tables, reference predictions."""
