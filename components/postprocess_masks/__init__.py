"""Probabilities to masks in the bucket."""
