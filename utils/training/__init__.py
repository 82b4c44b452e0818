"""Training one stage of one fold: epochs, losses, optimizer, checkpoints and logs."""
