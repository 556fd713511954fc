"""Edits of a network: normalising, folding, and replacing layers or their weights."""
