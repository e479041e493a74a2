"""Image folders, list files and record files, converted to each other."""
