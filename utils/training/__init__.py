"""One stage of one fold: epochs, losses, optimizer, checkpoints and log."""
