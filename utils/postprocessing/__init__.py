"""Probability maps to masks, and the thresholds for it."""
