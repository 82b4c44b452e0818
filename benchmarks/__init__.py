"""Measurements: speed ratios, costs of networks, recipes, and robustness."""
