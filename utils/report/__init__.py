"""report.html: what a run learnt, where it fails, and its thresholds to play with."""

REPORT = "report.html"
"""Its name in the folder of a run."""
CASES = 4
"""Images of each kind, unless asked for another number."""
