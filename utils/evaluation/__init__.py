"""How good a submission is."""
