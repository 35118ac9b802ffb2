"""Processes, threads, progress, caches: what all other folders build on."""
