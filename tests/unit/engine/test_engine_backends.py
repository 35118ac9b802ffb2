"""Which backend runs, what is refused, and how a model is converted for OpenVINO."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from codes import fails
from fixtures import views

from clipseg_kfp.engine import Engine, backends, check_choices
from clipseg_kfp.engine.checkpoint import read_facts
from clipseg_kfp.options import Inference
from clipseg_kfp.runtime.cache import cache_folder


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPSEG_KFP_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes packages look as if they were not installed."""

    def hide(*names: str) -> None:
        monkeypatch.setattr(backends, "installed", lambda name: name not in names)

    return hide


@pytest.mark.parametrize(
    ("choices", "where", "code"),
    [
        ({"backend": "onnx"}, "inference.backend", "literal_error"),
        ({"device": "tpu"}, "inference.device", "literal_error"),
        ({"precision": "float16"}, "inference.precision", "literal_error"),
        ({"backend": "openvino", "device": "cuda"}, "inference", "openvino_on_cuda"),
        ({"backend": "torch", "precision": "int8"}, "inference", "int8_without_openvino"),
        ({"device": "cuda", "precision": "int8"}, "inference", "int8_without_openvino"),
    ],
)
def test_wrong_choices_are_refused_before_any_work(choices: dict[str, str], where: str, code: str) -> None:
    for check in (check_choices, partial(Engine.load, Path("/no/such/folder"))):
        with fails("options") as caught:
            check(**choices)
        assert [(problem.where, problem.code) for problem in caught.value.problems] == [(where, code)]


def test_a_device_that_is_not_here_is_refused() -> None:
    with fails("device_missing", where="inference.device"):
        check_choices(device="cuda")
    with fails("device_missing", where="inference.device"):
        Engine.load(Path("/no/such/folder"), Inference(device="cuda"))


def test_missing_packages_are_named_with_the_remedy(without: Any) -> None:
    without("openvino")
    with fails("package_missing", where="inference.backend") as caught:
        check_choices(backend="openvino")
    assert "clipseg-kfp[openvino]" in caught.value.remedy
    with fails("package_missing", where="inference.precision") as caught:
        check_choices(precision="int8")
    assert "clipseg-kfp[int8]" in caught.value.remedy
    without("openvino", "nncf")
    with fails("package_missing", where="inference.precision") as caught:
        check_choices(precision="int8")
    assert "openvino" in caught.value.message and "nncf" in caught.value.message


def test_auto_takes_openvino_where_it_is_installed(tiny_model: Path, without: Any) -> None:
    assert Engine.load(tiny_model, device="cpu").describe() == {
        "backend": "openvino",
        "device": "cpu",
        "precision": "float32",
    }
    without("openvino")
    assert Engine.load(tiny_model, device="cpu").describe()["backend"] == "torch"


def test_auto_takes_torch_on_other_processors(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert Engine.load(tiny_model).describe()["backend"] == "torch"


@pytest.fixture
def _failing_conversion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes OpenVINO's results differ from torch's, as far as the check of parity sees."""
    from clipseg_kfp.engine import openvino_backend

    monkeypatch.setattr(openvino_backend, "PARITY", -1.0)


@pytest.mark.usefixtures("_failing_conversion")
def test_auto_goes_on_with_torch_where_parity_fails(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(backends, "say", lambda step, message: told.append(message))
    assert Engine.load(tiny_model, device="cpu").describe()["backend"] == "torch"
    assert len(told) == 1, "the change of backend is told"
    assert list(cache_folder("openvino").iterdir()) == [], "what fails the check must not be kept"


@pytest.mark.usefixtures("_failing_conversion")
def test_an_explicit_choice_fails_where_parity_fails(tiny_model: Path) -> None:
    with fails("openvino_parity", where="inference.backend"):
        Engine.load(tiny_model, backend="openvino")


def test_int8_is_not_loaded_without_images(tiny_model: Path) -> None:
    with fails("int8_without_images", where="inference.precision"):
        Engine.load(tiny_model, precision="int8")


def test_a_conversion_that_was_killed_leaves_nothing_for_long(tiny_model: Path) -> None:
    stale = cache_folder("openvino") / "unfinished-old"
    stale.mkdir()
    Engine.load(tiny_model, backend="openvino")
    assert not stale.exists()


def test_a_checkpoint_that_cannot_be_used_is_no_matter_of_backends(tmp_path: Path, tiny_model: Path) -> None:
    from safetensors.numpy import load_file, save_file

    broken = tmp_path / "broken"
    broken.mkdir()
    for path in tiny_model.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    weights = load_file(broken / "model.safetensors")
    name = next(name for name in weights if "vision_model.encoder" in name and name.endswith("weight"))
    weights[name] = np.full_like(weights[name], np.nan)
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    for backend in ("auto", "torch", "openvino"):
        with fails("weights_not_finite", where=name):
            Engine.load(broken, backend=backend, device="cpu")


SECOND_USE = """
import sys
from functools import partial
from pathlib import Path
import numpy as np
from clipseg_kfp.engine import Engine
engine = Engine.load(Path(sys.argv[1]), backend="openvino")
maps = list(engine.probabilities(np.load(sys.argv[2]), np.load(sys.argv[3])))
np.save(sys.argv[4], np.stack(maps))
print(sorted(name for name in ("torch", "transformers") if name in sys.modules))
print("blocked", sys.modules.get("openvino_telemetry", "importable"))
"""


def test_a_model_is_converted_once_and_needs_no_torch_here(tiny_model: Path, tmp_path: Path) -> None:
    """And neither time is anything reported to the maker of OpenVINO, or left in the home directory."""
    home = tmp_path / "home"
    home.mkdir()
    pixels, embeddings = views(2), np.random.default_rng(0).standard_normal((3, 24)).astype(np.float32)
    np.save(tmp_path / "pixels.npy", pixels)
    np.save(tmp_path / "embeddings.npy", embeddings)
    found = []
    for attempt in ("first", "second"):
        done = subprocess.run(
            [sys.executable, "-c", SECOND_USE, tiny_model]
            + [tmp_path / f"{name}.npy" for name in ("pixels", "embeddings", attempt)],
            env={**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(tmp_path / "xdg"), "CI": ""},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        found.append(np.load(tmp_path / f"{attempt}.npy"))
        assert ("converting" in done.stdout) == (attempt == "first")
        assert "[]" in done.stdout, "torch is for the process that converts"
        assert "blocked None" in done.stdout, "nothing can report to OpenVINO's maker"
    np.testing.assert_array_equal(*found)
    expected = [*Engine.load(tiny_model, backend="torch").probabilities(pixels, embeddings)]
    assert np.abs(found[0].astype(int) - np.stack(expected)).max() <= 1
    assert list(home.iterdir()) == []


def test_processes_that_convert_at_once_agree(tiny_model: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "pixels.npy", views(1))
    np.save(tmp_path / "embeddings.npy", np.ones((1, 24), np.float32))
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SECOND_USE, tiny_model]
            + [tmp_path / f"{name}.npy" for name in ("pixels", "embeddings", str(i))]
        )
        for i in range(2)
    ]
    assert [process.wait(timeout=120) for process in started] == [0, 0]
    np.testing.assert_array_equal(np.load(tmp_path / "0.npy"), np.load(tmp_path / "1.npy"))
    assert len(list(cache_folder("openvino").iterdir())) == 1, "unfinished folders are removed"


def test_another_checkpoint_is_another_conversion(tiny_model: Path, build_tiny: Any) -> None:
    folders = [tiny_model, build_tiny("simple")]
    for folder in folders:
        Engine.load(folder, backend="openvino")
    names = {path.name for path in cache_folder("openvino").iterdir()}
    assert len(names) == 2
    assert all(any(name.startswith(read_facts(folder).digest) for name in names) for folder in folders)


@pytest.mark.parametrize("name", ["encoder.bin", "encoder.xml", "size.json"])
def test_a_damaged_conversion_is_made_again(tiny_model: Path, name: str) -> None:
    expected = next(Engine.load(tiny_model, backend="openvino").probabilities(views(1), np.ones((1, 24))))
    (entry,) = cache_folder("openvino").iterdir()
    whole = (entry / name).read_bytes()
    (entry / name).write_bytes(whole[: len(whole) // 2])
    found = next(Engine.load(tiny_model, backend="openvino").probabilities(views(1), np.ones((1, 24))))
    np.testing.assert_array_equal(found, expected)
    assert (entry / name).read_bytes() == whole


def change(entry: Path) -> None:
    """Other weights of the same size, which OpenVINO would load without a word."""
    data = bytearray((entry / "decoder.bin").read_bytes())
    data[: len(data) // 2] = bytes(len(data) // 2)
    (entry / "decoder.bin").write_bytes(data)


def lend(entry: Path) -> None:
    """Others may write a file."""
    change(entry)
    seal = json.loads((entry / "seal.json").read_text())
    seal["files"]["decoder.bin"] = hashlib.sha256((entry / "decoder.bin").read_bytes()).hexdigest()
    (entry / "seal.json").write_text(json.dumps(seal))
    (entry / "decoder.bin").chmod(0o666)


def link(entry: Path) -> None:
    change(entry)
    entry.rename(entry.with_name("elsewhere"))
    entry.symlink_to(entry.with_name("elsewhere"))


def unseal(entry: Path) -> None:
    change(entry)
    (entry / "seal.json").unlink()


@pytest.mark.parametrize("attack", [change, lend, link, unseal])
def test_a_changed_conversion_is_not_trusted(tiny_model: Path, attack: Callable[[Path], None]) -> None:
    expected = next(Engine.load(tiny_model, backend="openvino").probabilities(views(1), np.ones((1, 24))))
    (entry,) = cache_folder("openvino").iterdir()
    attack(entry)
    found = next(Engine.load(tiny_model, backend="openvino").probabilities(views(1), np.ones((1, 24))))
    np.testing.assert_array_equal(found, expected)


def test_another_model_s_conversion_is_not_taken_for_this_one(tiny_model: Path, build_tiny: Any) -> None:
    expected = next(Engine.load(tiny_model, backend="openvino").probabilities(views(1), np.ones((1, 24))))
    (entry,) = cache_folder("openvino").iterdir()
    entry.rename(entry.with_name("first"))
    Engine.load(build_tiny("simple"), backend="openvino")
    (other,) = (path for path in cache_folder("openvino").iterdir() if path.name != "first")
    other.rename(entry)
    found = next(Engine.load(tiny_model, backend="openvino").probabilities(views(1), np.ones((1, 24))))
    np.testing.assert_array_equal(found, expected)


def test_a_filled_cache_that_cannot_be_written_is_used(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipseg_kfp.engine import openvino_backend

    Engine.load(tiny_model, backend="openvino")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    monkeypatch.setattr(openvino_backend, "_convert", None)  # a conversion would fail
    Engine.load(tiny_model, backend="openvino")


def test_a_cache_that_cannot_be_written_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file, where a folder should be")
    monkeypatch.setenv("CLIPSEG_KFP_CACHE", str(blocked / "below"))
    folder = cache_folder("openvino")
    (folder / "probe").write_text("can be written")
    assert not folder.is_relative_to(tmp_path)
    (folder / "probe").unlink()


def test_the_cache_lies_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder("x") == tmp_path / "cache" / "x"
    monkeypatch.delenv("CLIPSEG_KFP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder("x") == tmp_path / "xdg" / "clipseg-kfp" / "x"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder("x") == tmp_path / "home" / ".cache" / "clipseg-kfp" / "x"
