"""Damaged files, kills and long trainings: what must not break."""
