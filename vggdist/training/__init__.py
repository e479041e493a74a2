"""How does it learn? The loop, the step, the schedule, the optimizers and the metrics."""
