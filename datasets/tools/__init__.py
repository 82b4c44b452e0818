"""Implementation of the commands in datasets/."""
