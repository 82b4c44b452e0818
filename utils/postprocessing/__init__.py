"""From probability maps to masks, and the choice of the thresholds."""
