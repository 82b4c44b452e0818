"""A run before its first step: what is decided, its folder, data and first weights."""
