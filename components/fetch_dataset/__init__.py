"""Data-set URI to shards."""
