"""A piece of a network as a differentiable function of its weights, refined for what the piece delivers."""
