"""Models read from files, written to files, and checked."""
