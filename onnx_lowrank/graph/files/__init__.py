"""Models from and to files."""
