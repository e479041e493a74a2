"""Data sets: reading, decoding, sampling, augmenting and loading of images."""
