"""Trained runs to probability maps, masks and files."""
