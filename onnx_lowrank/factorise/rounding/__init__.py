"""Numbers rounded to 8 bits so that a layer's responses change as little as possible."""
