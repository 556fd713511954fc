"""Finding what can be factorised; nothing here changes a graph."""
