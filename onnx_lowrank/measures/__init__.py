"""What the outputs of a network are for, recognised from a few samples, and how well another network keeps that."""
