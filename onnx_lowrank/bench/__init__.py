"""How fast models run: in turns, and node by node."""
