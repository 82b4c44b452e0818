"""What a machine with a GPU has to show, in parts that fail or run out of time on their own."""
