"""Changing a graph."""
