"""Robustness against damaged files, kills and long trainings."""
