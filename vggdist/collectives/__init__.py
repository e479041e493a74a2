"""The ranks of a job, and the collective operations that they share."""
