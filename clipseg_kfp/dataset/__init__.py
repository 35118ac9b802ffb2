"""Which images a data set has, and where their ground truth is."""
