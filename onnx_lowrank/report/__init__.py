"""What a run says in the end, as plain data that becomes JSON."""
