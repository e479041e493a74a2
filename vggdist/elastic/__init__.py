"""Elastic training: continues in the same processes when ranks join, leave or die."""
