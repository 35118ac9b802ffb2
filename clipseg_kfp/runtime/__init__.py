"""Processes, threads, progress, caches: what every room stands on."""
