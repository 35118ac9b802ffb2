"""Checkpoint to Model artifact."""
