"""Samples of every kind, from files, arrays or streams or made up, as batches for the model."""
