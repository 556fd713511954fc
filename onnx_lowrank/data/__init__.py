"""Samples of every kind, from files, arrays, streams or nothing, as batches for the model."""
