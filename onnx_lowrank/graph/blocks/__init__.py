"""Pieces of a network read as blocks that the mathematics can differentiate."""
