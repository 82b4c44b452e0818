"""Pretrained weights of encoders and networks, and the input that they want."""
