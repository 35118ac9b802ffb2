"""Views to probabilities."""
