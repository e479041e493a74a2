"""Use of a trained network: evaluation, prediction and export."""
