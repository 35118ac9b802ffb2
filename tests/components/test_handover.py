"""What components hand to Kubeflow: the gate, the rules behind it, and that each component goes through it."""

from __future__ import annotations

import ast
import inspect
import json
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backend_rules import refusals
from kfp import dsl

from clipseg_kfp.components import ALL
from clipseg_kfp.options import Views
from clipseg_kfp.steps import running
from clipseg_kfp.steps.handover import (
    MAX_METADATA,
    MAX_METRICS,
    MAX_OUTPUT,
    Handover,
    HandoverError,
    classification,
)

RECORDED = Path(__file__).parent / "recorded"
NAMES = [component.component_spec.name.replace("-", "_") for component in ALL]


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ("", ""),
        ("prompts: 'ä' \U0001f600", "prompts: 'ä' \U0001f600"),
        (True, True),
        (0, 0),
        (2**53, 2**53),
        (-1.5, -1.5),
        (["a", {"b": [1, 2.5, False]}], ["a", {"b": [1, 2.5, False]}]),
        (("a", "b"), ["a", "b"]),
        ({}, {}),
        ([], []),
        (np.int64(7), 7),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        ([np.float64(0.25)], [0.25]),
    ],
)
def test_what_the_gate_lets_through(given: Any, plain: Any) -> None:
    handed = Handover(metadata={"a": {"x": given}}, metrics={"b": {"x": given}}, output=given)
    found = handed.metadata["a"]["x"], handed.metrics["b"]["x"], handed.output
    for value in found:
        assert value == plain and type(value) is type(plain)
    output = {"parameterValues": {"Output": found[2]}, "artifacts": {"a": _artifact({"x": found[0]})}}
    assert refusals(json.dumps(output)) == []


@pytest.mark.parametrize(
    "value",
    [
        None,
        float("nan"),
        float("inf"),
        np.float32("-inf"),
        2**53 + 1,
        b"bytes",
        {1, 2},
        Path("a"),
        np.zeros(2),
        np.datetime64("2026-01-01"),
        1j,
        "\udc80",
        {"\udc80": 1},
        {1: "a"},
        {None: "a"},
        {"": "a"},
        {"k" * 301: "a"},
        object(),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("nested", [False, True])
def test_what_the_gate_refuses(value: Any, nested: bool) -> None:
    given = {"list": [1, {"map": value}]} if nested else value
    for handed in (
        {"metadata": {"a": {"x": given}}},
        {"metrics": {"a": {"x": given}}},
        *([{"output": given}] if given is not None else []),
    ):
        with pytest.raises(HandoverError) as caught:
            Handover(**handed)
        assert caught.value.remedy
        assert ("output" in handed) or ("'a'" in caught.value.message and "x" in caught.value.message)


def test_sizes_are_bounded() -> None:
    for limit, made in (
        (MAX_METADATA, lambda text: Handover(metadata={"a": {"x": text}})),
        (MAX_METRICS, lambda text: Handover(metrics={"a": {"x": text}})),
        (MAX_OUTPUT, lambda text: Handover(output=[{"x": text}])),
    ):
        made("a" * (limit - 20))
        with pytest.raises(HandoverError):
            made("a" * limit)


def test_the_rules_are_those_of_the_backend() -> None:
    """What a real 2.17 refused after the step's work, and what it took."""
    refused = (RECORDED / "executor-output-null-metadata.json").read_text("utf-8")
    assert refusals(refused) == ["dataset.deleted"]
    assert refusals(refused.replace("null", "0")) == []
    for value in (float("nan"), float("inf"), [None], {"a": None}, "\udc80"):
        text = json.dumps({"artifacts": {"a": _artifact({"x": value})}}, ensure_ascii=False)
        assert refusals(text), value


@pytest.mark.parametrize("component", ALL, ids=NAMES)
def test_a_component_is_its_steps_interface_and_one_call(component: Any) -> None:
    """The same parameters with the same defaults; metrics have metadata only, of which a step knows by handover."""
    name = component.component_spec.name.replace("-", "_")
    step = import_module(f"clipseg_kfp.steps.{name}")
    taken = inspect.signature(step.run).parameters
    outputs = component.component_spec.outputs
    given = {
        key: one
        for key, one in inspect.signature(component.python_func).parameters.items()
        if key not in outputs or "Metrics@" not in outputs[key].type
    }
    assert set(given) == set(taken)
    for key, one in given.items():
        if one.default is not one.empty:
            assert (one.default or None) == (taken[key].default or None), key
    (code,) = ast.parse(inspect.getsource(component.python_func)).body
    assert isinstance(code, ast.FunctionDef)
    _, *statements = code.body  # behind the docstring
    assert [ast.unparse(one) for one in statements] == [
        "from clipseg_kfp.steps.running import run_step",
        f"return run_step('{name}', locals())",
    ]


@pytest.mark.parametrize("component", ALL, ids=NAMES)
def test_a_step_may_hand_over_what_its_component_has(component: Any) -> None:
    """Names of artifacts in a handover are written as text: they must be outputs."""
    name = component.component_spec.name.replace("-", "_")
    step = import_module(f"clipseg_kfp.steps.{name}")
    outputs = set(component.component_spec.outputs)
    (code,) = ast.parse(inspect.getsource(step.handover)).body
    named = {
        key.value
        for call in ast.walk(code)
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "Handover"
        for given in call.keywords
        if given.arg in ("metadata", "metrics") and isinstance(given.value, ast.Dict)
        for key in given.value.keys
        if isinstance(key, ast.Constant)
    }
    assert named and named <= outputs


@dataclass
class FakeStep:
    """Stands in for a step's module, to see what reaches it."""

    handed: Handover
    seen: dict[str, Any]

    def run(self, **arguments: Any) -> dict[str, Any]:
        self.seen.update(arguments)
        return arguments

    def handover(self, found: dict[str, Any]) -> Handover:
        assert found == self.seen
        return self.handed


def test_a_step_gets_paths_and_its_values_go_to_their_artifacts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = FakeStep(Handover({"out": {"n": np.int64(3)}}, {"figures": {"iou": 0.5}}, ["a"]), {})
    monkeypatch.setattr(running, "import_module", lambda name: step)
    model = dsl.Model(uri=str(tmp_path / "model"))
    shards = [dsl.Dataset(uri=str(tmp_path / f"{i}")) for i in range(2)]
    out, figures = dsl.Dataset(uri=str(tmp_path / "out")), dsl.Metrics(uri=str(tmp_path / "figures"))

    def component(
        model: Any, shards: Any, names: Any, out: Any, figures: Any, views: Any, size: int = 3
    ) -> Any:
        from clipseg_kfp.steps.running import run_step

        return run_step("component", locals())

    assert component(model, shards, ["x"], out, figures, {"tile_size": 512.0}) == ["a"]
    assert step.seen == {
        "model": tmp_path / "model",
        "shards": [tmp_path / "0", tmp_path / "1"],
        "names": ["x"],
        "out": tmp_path / "out",
        "views": Views(tile_size=512),
        "size": 3,
    }
    assert out.metadata == {"n": 3} and figures.metadata == {"iou": 0.5}
    assert capsys.readouterr().err == ""


def test_all_options_that_cannot_be_used_are_told_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(running, "import_module", lambda name: FakeStep(Handover(), {}))
    with pytest.raises(SystemExit) as end:
        running.run_step("component", {"views": {"tile_siz": 1}, "limits": {"limit": -1.0}})
    error = capsys.readouterr().err
    assert end.value.code == 1 and "views.tile_siz" in error and "limits.limit" in error


def test_a_users_mistake_ends_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(**_: Any) -> None:
        raise FileNotFoundError(2, "No such file", "/no/such")

    step = FakeStep(Handover(), {})
    monkeypatch.setattr(step, "run", run)
    monkeypatch.setattr(running, "import_module", lambda name: step)
    with pytest.raises(SystemExit) as end:
        running.run_step("component", {})
    error = capsys.readouterr().err
    assert end.value.code == 1 and error.startswith("error: component: ") and "/no/such" in error
    assert "  remedy: " in error


def test_a_classification_is_what_the_ui_draws() -> None:
    found = classification(([0.0, 1.0], [0.0, 1.0], [1.0, 0.0]), ["no", "yes"], [[5, 1], [2, 7]])
    assert found["confidenceMetrics"][1] == {  # type: ignore[index,call-overload]
        "confidenceThreshold": 0.0,
        "falsePositiveRate": 1.0,
        "recall": 1.0,
    }
    assert found["confusionMatrix"]["rows"][1]["row"] == [2, 7]  # type: ignore[index,call-overload]
    assert Handover(metrics={"classification": found}).metrics["classification"] == found


def _artifact(metadata: Any) -> dict[str, Any]:
    return {"artifacts": [{"name": "a", "uri": "/a", "metadata": metadata}]}
