"""The results of a run and of a benchmark, as plain data that becomes JSON."""
