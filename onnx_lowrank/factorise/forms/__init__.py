"""The forms of a factorised convolution, one file each."""
