"""The VGG family: arithmetic, networks and numeric types."""
