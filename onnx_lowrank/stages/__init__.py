"""The stages of a run in the order of the pipeline, each of which returns one frozen result."""
