"""Prompt set to conditional embeddings."""
