"""Calibration: batches of inputs from every supported source, and where the responses are sampled."""
