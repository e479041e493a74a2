"""What the state of hosts, GPUs and ranks means for a run."""
