"""The checkpoints of ``tests/fixtures.py`` for the unit tests."""

from fixtures import build_tiny, demo_model, tiny_model

__all__ = ["build_tiny", "demo_model", "tiny_model"]
