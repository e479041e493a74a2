"""What is trained: the VGG family, its arithmetic and parameters from elsewhere."""
