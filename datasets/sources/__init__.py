"""Prepared pixels by position: straight from the files, or from the memory-mapped cache."""
