"""The calibration samples at work: which positions of them are looked at, and the network run over them piece by piece."""
