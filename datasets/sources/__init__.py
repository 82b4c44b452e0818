"""Prepared pixels by position: directly from the files, or from the memory-mapped cache."""
