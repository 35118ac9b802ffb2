"""Which images a data set has."""
