"""Conversion between image folders, list files and record files."""
