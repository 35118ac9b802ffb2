"""Untrusted image bytes: which formats are read, how they are decoded, and the workers that do it."""
