"""Output of a run: console, log, metrics, TensorBoard events and results."""
