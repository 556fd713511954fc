"""What follows a layer, each kind of function with its z-step."""
