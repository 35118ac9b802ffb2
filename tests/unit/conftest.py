"""The checkpoints of ``tests/fixtures.py`` for the unit tests."""

import pytest
from fixtures import build_tiny, demo_model, tiny_model

__all__ = ["build_tiny", "demo_model", "tiny_model"]


@pytest.fixture(scope="module", params=["torch", "openvino"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "openvino":
        pytest.importorskip("openvino", reason="needs openvino: pip install 'clipseg-kfp[openvino]'")
    return str(request.param)
