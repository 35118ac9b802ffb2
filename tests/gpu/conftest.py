"""The tests of this folder need a CUDA device, whatever is around it: run them with ``make test-gpu``."""

from __future__ import annotations

import pytest
import torch
from fixtures import build_tiny, demo_model, tiny_model

__all__ = ["build_tiny", "demo_model", "tiny_model"]


@pytest.fixture(scope="session", autouse=True)
def _device() -> None:
    if not torch.cuda.is_available():
        pytest.fail("torch sees no CUDA device here; these tests are for machines with one")
