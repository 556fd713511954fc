"""Where the channels of every tensor come from, and every place of the graph that has an entry for each of them."""
