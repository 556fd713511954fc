"""A network in integers: which layers and tensors are rounded, and the nodes that say so."""
