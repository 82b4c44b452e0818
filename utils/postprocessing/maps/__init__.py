"""Probability maps: to their original size, to levels, to counts."""
