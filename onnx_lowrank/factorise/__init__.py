"""The mathematics of one layer: from sampled patches and target responses to a low-rank factorisation."""
