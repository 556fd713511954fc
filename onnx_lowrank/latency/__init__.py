"""What the clock says: measured times of layers, kept in a table, as the costs among which the planner chooses."""
