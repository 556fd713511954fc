"""Calibration: the division of the samples, the positions that are sampled, and the network run over the samples."""
