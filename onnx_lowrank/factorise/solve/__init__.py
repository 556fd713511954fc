"""One layer solved: regression, alternation, descent, and the ridge of a fully connected layer."""
