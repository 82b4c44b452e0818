"""From trained runs to probability maps, masks and files."""
