"""Several prompt sets and thresholds compared on labeled images."""
