"""The stages of a run, in the order of the pipeline; each gives one frozen result."""
