"""Several prompt sets and thresholds compared on labelled images."""
