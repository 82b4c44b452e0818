"""report.html: what a run learnt, where it fails, and its thresholds to play with."""
