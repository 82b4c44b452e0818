"""Rooms for settings, training, inference, postprocessing and evaluation, above shared helpers."""
