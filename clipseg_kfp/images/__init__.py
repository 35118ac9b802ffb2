"""Untrusted image files: the formats that are read, how they are decoded, and the workers that do it."""
