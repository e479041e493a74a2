"""Training: the loop, the step, the schedule, the optimizers and the metrics."""
