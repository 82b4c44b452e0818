"""Parts that training, prediction and data preparation share."""
