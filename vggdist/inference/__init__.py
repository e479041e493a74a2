"""Using a trained network: finding its checkpoint, measuring it, naming the class of an image, exporting it."""
