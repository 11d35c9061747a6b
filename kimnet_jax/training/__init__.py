"""Time: state, steps, checkpoints, evaluation, the loop. Receives the model and the iterators."""
