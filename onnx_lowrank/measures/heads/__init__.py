"""The heads of detectors: how their outputs say where boxes are."""
