"""Heads that answer for a whole text: a gate and experts of unlike kinds, and the encoders that feed them."""
