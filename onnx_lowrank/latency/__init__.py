"""Speed by the clock: layers and models are measured, a table keeps the times, and a search plans by them."""
