"""The configuration of a command: its schema, and how files and flags are parsed into it."""
