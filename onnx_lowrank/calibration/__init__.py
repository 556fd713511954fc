"""The calibration samples at work: where they are looked at, and the network run over them piece by piece."""
