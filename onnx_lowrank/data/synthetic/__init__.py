"""Samples made up for models whose data are not at hand."""
