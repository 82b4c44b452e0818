"""Measurements: speed ratios, cost of networks, comparison of recipes, and robustness."""
