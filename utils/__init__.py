"""Packages for settings, training, inference, postprocessing and evaluation; shared helpers."""
