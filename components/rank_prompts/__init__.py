"""Prompts compared with each other."""
