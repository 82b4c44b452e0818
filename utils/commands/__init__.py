"""What the commands do, once their command lines have been parsed."""
