"""Samples that are made up where there are none."""
