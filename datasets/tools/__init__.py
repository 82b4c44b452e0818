"""What the commands of datasets/ are made of."""
