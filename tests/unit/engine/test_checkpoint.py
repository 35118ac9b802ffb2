"""Checkpoints: fetched from everywhere, refused with a reason, loaded."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import torch
from codes import fails
from safetensors.torch import load_file, save_file

from clipseg_kfp.engine.checkpoint import ModelFacts, digest_of, fetch, load_model, load_tokenizer, read_facts
from clipseg_kfp.errors import ParameterError, StorageError
from clipseg_kfp.local.store import EmbeddedStore
from clipseg_kfp.storage import open_folder

FILES = (
    "config.json",
    "model.safetensors",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)


@pytest.fixture
def checkpoint(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(tiny_model, tmp_path / "checkpoint"))


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


# Folders and buckets


@pytest.mark.parametrize("form", ["{}", "file://{}", "{}/"])
def test_a_folder_is_fetched_whole(checkpoint: Path, tmp_path: Path, form: str) -> None:
    (checkpoint / "README.md").write_text("not needed")
    (checkpoint / "onnx").mkdir()
    (checkpoint / "onnx/config.json").write_text("{}")
    uri = form.format(checkpoint)
    fetched = fetch(uri, tmp_path / "new/target")
    assert fetched.files == FILES
    assert fetched.left_out == ()
    assert fetched.uri == uri
    assert fetched.revision == fetched.digest == digest_of(tmp_path / "new/target")
    for name in FILES:
        assert (tmp_path / "new/target" / name).read_bytes() == (checkpoint / name).read_bytes()


def test_linked_files_as_in_a_hub_cache_are_fetched(checkpoint: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in FILES:
        (linked / name).symlink_to(checkpoint / name)
    fetched = fetch(str(linked), tmp_path / "target")
    assert fetched.digest == fetch(str(checkpoint), tmp_path / "other").digest
    assert not any(path.is_symlink() for path in (tmp_path / "target").iterdir())


@pytest.mark.usefixtures("s3_env")
def test_a_prefix_of_a_bucket_is_fetched(checkpoint: Path, bucket: str, tmp_path: Path) -> None:
    folder = open_folder(f"s3://{bucket}/models/tiny")
    for name in FILES:
        folder.write(name, (checkpoint / name).read_bytes())
    folder.write("pytorch_model.bin", b"pickle")
    folder.write("sub/config.json", b"{}")
    open_folder(f"s3://{bucket}/models").write("tiny-other/config.json", b"{}")
    fetched = fetch(f"s3://{bucket}/models/tiny", tmp_path / "target")
    assert fetched.files == FILES
    assert fetched.left_out == ("pytorch_model.bin",)
    assert fetched.digest == fetch(str(checkpoint), tmp_path / "other").digest
    with fails("checkpoint_missing", where=f"s3://{bucket}/models/none"):
        fetch(f"s3://{bucket}/models/none", tmp_path / "empty")


@pytest.mark.usefixtures("s3_env")
def test_a_missing_bucket_is_a_fault_of_the_store(store: EmbeddedStore, tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught:
        fetch("s3://no-such-bucket/model", tmp_path / "target")
    assert "no-such-bucket" in caught.value.message


def test_a_missing_folder_and_other_uris_are_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as missing:
        fetch(str(tmp_path / "no/where"), tmp_path / "target")
    assert "no/where" in missing.value.message
    with fails("uri_empty", where="model_uri"):
        fetch("", tmp_path / "target")
    with pytest.raises(ParameterError) as unknown:
        fetch("ftp://host/model", tmp_path / "target")
    assert "'ftp'" in unknown.value.message
    for wrong in ("hf://", "hf://name", "hf://org/name@", "hf://org/name/file", "hf://org/name@a b"):
        with fails("hub_uri", where=wrong):
            fetch(wrong, tmp_path / "target")
    with fails("hub_uri", where="hf://org/a--b"):
        fetch("hf://org/a--b", tmp_path / "target")


def test_the_digest_changes_with_any_byte_and_any_name(checkpoint: Path) -> None:
    seen = {digest_of(checkpoint)}
    assert digest_of(checkpoint) in seen
    for name in FILES:
        data = bytearray((checkpoint / name).read_bytes())
        data[len(data) // 2] ^= 1
        (checkpoint / name).write_bytes(data)
        seen.add(digest_of(checkpoint))
    (checkpoint / "tokenizer.json").rename(checkpoint / "vocab.json")
    seen.add(digest_of(checkpoint))
    (checkpoint / "merges.txt").write_bytes(b"")
    seen.add(digest_of(checkpoint))
    assert len(seen) == len(FILES) + 3
    assert all(len(digest) == 32 for digest in seen)


# What is not taken


@pytest.mark.parametrize("name", ["pytorch_model.bin", "rd64-uni.pt", "weights.pkl", "MODEL.PTH", "m.ckpt"])
def test_a_checkpoint_of_pickles_is_refused_by_name(checkpoint: Path, tmp_path: Path, name: str) -> None:
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / name).write_bytes(b"\x80\x04K\x01.")
    with fails("checkpoint_not_safetensors", where=str(checkpoint)) as caught:
        fetch(str(checkpoint), tmp_path / "target")
    assert name in caught.value.message
    assert not (tmp_path / "target" / name).exists()


def test_pickles_beside_safetensors_are_left_out_and_named(checkpoint: Path, tmp_path: Path) -> None:
    plain = fetch(str(checkpoint), tmp_path / "plain")
    for name in ("pytorch_model.bin", "optimizer.pt", "scaler.pkl"):
        (checkpoint / name).write_bytes(b"\x80\x04K\x01.")
    fetched = fetch(str(checkpoint), tmp_path / "target")
    assert fetched.left_out == ("optimizer.pt", "pytorch_model.bin", "scaler.pkl")
    assert fetched.files == FILES
    assert fetched.digest == plain.digest


def test_a_checkpoint_without_config_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "config.json").unlink()
    with fails("checkpoint_missing", where=str(checkpoint)):
        fetch(str(checkpoint), tmp_path / "target")


# What a checkpoint says of its input


def test_facts_are_read_and_survive_json(checkpoint: Path) -> None:
    facts = read_facts(checkpoint)
    assert facts == ModelFacts(digest_of(checkpoint), 64, (0.48, 0.46, 0.41), (0.27, 0.26, 0.28), 24)
    assert ModelFacts.from_json(json.loads(json.dumps(facts.to_json()))) == facts


def test_facts_of_the_old_layout_with_preprocessor_config(checkpoint: Path) -> None:
    """The layout of CIDAS/clipseg-rd64-refined: a file of its own, one number for the size."""
    expected = read_facts(checkpoint)
    settings = json.loads((checkpoint / "processor_config.json").read_text())["image_processor"]
    for size in (64, {"height": 64, "width": 64}):
        old = {key: settings[key] for key in ("image_mean", "image_std", "resample", "do_normalize")}
        (checkpoint / "preprocessor_config.json").write_text(json.dumps({**old, "size": size}))
        (checkpoint / "processor_config.json").write_text('{"processor_class": "CLIPSegProcessor"}')
        facts = read_facts(checkpoint)
        assert (facts.image_size, facts.mean, facts.std) == (64, expected.mean, expected.std)


def test_both_layouts_at_once_are_read_as_transformers_does(checkpoint: Path) -> None:
    from transformers import ViTImageProcessorPil

    settings = json.loads((checkpoint / "processor_config.json").read_text())["image_processor"]
    (checkpoint / "preprocessor_config.json").write_text(json.dumps({**settings, "image_mean": [0.1] * 3}))
    processor = ViTImageProcessorPil.from_pretrained(checkpoint)
    assert read_facts(checkpoint).mean == tuple(processor.image_mean)


def test_a_model_of_another_kind_is_refused(checkpoint: Path) -> None:
    edit(checkpoint / "config.json", lambda config: config.update(model_type="bert"))
    with fails("checkpoint_not_clipseg", where=str(checkpoint / "config.json")) as caught:
        read_facts(checkpoint)
    assert "'bert'" in caught.value.message


@pytest.mark.parametrize("left", [None, '{"processor_class": "CLIPSegProcessor"}', "[]"])
def test_a_checkpoint_without_preprocessor_config_is_refused(checkpoint: Path, left: str | None) -> None:
    (checkpoint / "processor_config.json").unlink()
    if left is not None:
        (checkpoint / "processor_config.json").write_text(left)
    with fails("checkpoint_without_processor", where=str(checkpoint / "preprocessor_config.json")):
        read_facts(checkpoint)


@pytest.mark.parametrize("name", ["processor_config.json", "preprocessor_config.json"])
def test_trouble_with_preprocessing_names_the_file_that_was_read(name: str, checkpoint: Path) -> None:
    path = checkpoint / "processor_config.json"
    settings = {**json.loads(path.read_text())["image_processor"], "image_mean": [0.5]}
    path.unlink()
    whole = {"image_processor": settings} if name == path.name else settings
    (checkpoint / name).write_text(json.dumps(whole))
    with fails("preprocessing_unsupported", where=f"{checkpoint / name}: image_mean"):
        read_facts(checkpoint)


def test_loading_takes_the_threads_that_the_container_may_use(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr("clipseg_kfp.engine.checkpoint.cpu_limit", lambda: 1)
    try:
        torch.set_num_threads(2)
        load_model(checkpoint)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"size": {"height": 64, "width": 96}}, "size"),
        ({"size": {"shortest_edge": 64}}, "size"),
        ({"size": "64"}, "size"),
        ({"size": None}, "size"),
        ({"size": 0}, "size"),
        ({"size": 70}, "size"),
        ({"resample": 3}, "resample"),
        ({"do_center_crop": True}, "resample"),
        ({"do_normalize": False}, "rescale_factor"),
        ({"do_rescale": False}, "rescale_factor"),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor"),
        ({"image_mean": None}, "image_mean"),
        ({"image_mean": [0.5]}, "image_mean"),
        ({"image_std": ["a", "b", "c"]}, "image_std"),
        ({"image_std": [0.2, 0, 0.2]}, "image_std"),
    ],
)
def test_preprocessing_that_the_suite_does_not_do_is_refused(
    checkpoint: Path, changes: dict[str, Any], field: str
) -> None:
    edit(checkpoint / "processor_config.json", lambda value: value["image_processor"].update(changes))
    with fails("preprocessing_unsupported", where=f"{checkpoint / 'processor_config.json'}: {field}"):
        read_facts(checkpoint)


def test_a_transposed_convolution_of_another_scale_is_refused(checkpoint: Path) -> None:
    edit(checkpoint / "config.json", lambda config: config["vision_config"].update(patch_size=8))
    with fails("checkpoint_patch_size", where=str(checkpoint / "config.json")):
        read_facts(checkpoint)


@pytest.mark.parametrize("name", ["config.json", "processor_config.json"])
def test_corrupt_json_is_named(checkpoint: Path, name: str) -> None:
    for damaged in (b'{"model_type": ', b"\xff\xfe\x00", b"", b"[" * 100_000):
        (checkpoint / name).write_bytes(damaged)
        with fails("checkpoint_json", where=str(checkpoint / name)):
            read_facts(checkpoint)


# Weights


def test_the_weights_are_loaded_in_float32_for_inference(checkpoint: Path) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    halves = {name: weight.half() for name, weight in weights.items()}
    save_file(halves, checkpoint / "model.safetensors", {"format": "pt"})
    model = load_model(checkpoint)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not model.training
    assert torch.equal(model.decoder.film_mul.weight, halves["decoder.film_mul.weight"].float())


def test_loading_leaves_the_environment_alone(checkpoint: Path) -> None:
    before = dict(os.environ)
    load_model(checkpoint)
    load_tokenizer(checkpoint)
    assert dict(os.environ) == before


def test_missing_decoder_weights_are_counted_and_named(checkpoint: Path) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    missing = [name for name in weights if name.startswith("decoder.")]
    save_file({n: w for n, w in weights.items() if n not in missing}, checkpoint / "model.safetensors",
              {"format": "pt"})  # fmt: skip
    with fails("weights_missing") as caught:
        load_model(checkpoint)
    assert caught.value.where in missing
    assert f" {len(missing)} " in caught.value.message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_named(checkpoint: Path, value: float) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    weights["decoder.layers.1.mlp.fc1.weight"][3, 2] = value
    save_file(weights, checkpoint / "model.safetensors", {"format": "pt"})
    with fails("weights_not_finite", where="decoder.layers.1.mlp.fc1.weight"):
        load_model(checkpoint)


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_truncated_safetensors_are_refused(checkpoint: Path, share: float) -> None:
    data = (checkpoint / "model.safetensors").read_bytes()
    (checkpoint / "model.safetensors").write_bytes(data[: int(len(data) * share)])
    with fails("checkpoint_unloadable", where=str(checkpoint)):
        load_model(checkpoint)


@pytest.mark.parametrize(
    "changes", [{"reduce_dim": 32}, {"reduce_dim": "wide"}, {"vision_config": 5}, {"extract_layers": "all"}]
)
def test_a_config_of_other_weights_or_no_sense_is_refused(checkpoint: Path, changes: dict[str, Any]) -> None:
    edit(checkpoint / "config.json", lambda config: config.update(changes))
    with fails("checkpoint_unloadable", where=str(checkpoint)):
        load_model(checkpoint)


def test_a_sharded_checkpoint_is_fetched_and_loads(tmp_path: Path, demo_model: Path) -> None:
    model = load_model(demo_model)
    sharded = Path(shutil.copytree(demo_model, tmp_path / "sharded"))
    (sharded / "model.safetensors").unlink()
    model.save_pretrained(sharded, max_shard_size="1MB")
    assert len(list(sharded.glob("model-*-of-*.safetensors"))) > 2
    fetched = fetch(str(sharded), tmp_path / "target")
    assert "model.safetensors.index.json" in fetched.files
    again = load_model(tmp_path / "target").state_dict()
    for name, weight in model.state_dict().items():
        assert torch.equal(again[name], weight), name
    next((tmp_path / "target").glob("model-00002-*")).unlink()
    with fails("checkpoint_unloadable", where=str(tmp_path / "target")):
        load_model(tmp_path / "target")


# Tokenizers


def test_a_missing_or_damaged_tokenizer_is_named(checkpoint: Path) -> None:
    for damaged in (b"{}", b'{"model"', b""):
        (checkpoint / "tokenizer.json").write_bytes(damaged)
        with fails("tokenizer_unloadable", where=str(checkpoint)):
            load_tokenizer(checkpoint)
    (checkpoint / "tokenizer.json").unlink()
    with fails("tokenizer_missing", where=str(checkpoint)):
        load_tokenizer(checkpoint)


def test_vocabulary_and_merges_make_the_same_tokenizer(checkpoint: Path) -> None:
    text = "two red striped circles, 1 unknown wörd"
    expected = load_tokenizer(checkpoint)(text)["input_ids"]
    model = json.loads((checkpoint / "tokenizer.json").read_text())["model"]
    (checkpoint / "tokenizer.json").unlink()
    (checkpoint / "vocab.json").write_text(json.dumps(model["vocab"]))
    with fails("tokenizer_unloadable", where=str(checkpoint)):
        load_tokenizer(checkpoint)
    lines = (pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"])
    (checkpoint / "merges.txt").write_text("\n".join(["#version: 0.2", *lines]))
    assert load_tokenizer(checkpoint)(text)["input_ids"] == expected


# The Hub, as a stand-in on the loopback interface

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """What huggingface_hub asks for: the model's facts, its tree, its files."""

    daemon_threads = True

    def __init__(self, repos: dict[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.repos = repos
        self.requests: list[str] = []
        self.gated = False
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        repo, rest = ("/".join(parts[2:4]), parts[4:]) if api else ("/".join(parts[:2]), parts[2:])
        if repo not in self.server.repos:
            return self._send(404 if api else 401, b"{}", {"X-Error-Code": "RepoNotFound"})
        folder, (kind, revision, *name) = self.server.repos[repo], rest or ["revision", "main"]
        if revision not in ("main", "v1.0", COMMIT):
            return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        if kind == "revision":
            return self._json({"id": repo, "sha": COMMIT, "siblings": []})
        if kind == "tree":
            return self._json([self._entry(path, folder) for path in sorted(folder.rglob("*"))])
        file = folder / "/".join(name)
        if not file.is_file():
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        if self.server.gated:
            return self._send(403, b"", {"X-Error-Code": "GatedRepo"})
        data = file.read_bytes()
        return self._send(200, data, {"ETag": f'"{_oid(data)}"', "X-Repo-Commit": COMMIT})

    def _entry(self, path: Path, folder: Path) -> dict[str, Any]:
        name = path.relative_to(folder).as_posix()
        if path.is_dir():
            return {"type": "directory", "path": name, "oid": "0" * 40, "size": 0}
        data = path.read_bytes()
        return {"type": "file", "path": name, "oid": _oid(data), "size": len(data)}

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _oid(data: bytes) -> str:
    """Git's name of a blob."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@pytest.fixture
def hub(checkpoint: Path, tmp_path: Path) -> Iterator[Hub]:
    (checkpoint / "pytorch_model.bin").write_bytes(b"\x80\x04K\x01.")
    (checkpoint / "README.md").write_text("a model card")
    (checkpoint / "onnx").mkdir()
    (checkpoint / "onnx/model.onnx").write_bytes(b"onnx")
    pickled = Path(shutil.copytree(checkpoint, tmp_path / "pickled"))
    (pickled / "model.safetensors").unlink()
    server = Hub({"org/clipseg": checkpoint, "org/pickled": pickled})
    yield server
    server.stop()


Run = Callable[..., dict[str, Any]]


@pytest.fixture
def fetch_in_process(tmp_path: Path) -> Run:
    """Fetches in a process of its own: huggingface_hub reads its environment when it is imported."""
    program = (
        "import json, sys\n"
        "from dataclasses import asdict\n"
        "from pathlib import Path\n"
        "from clipseg_kfp.errors import ClipsegKfpError\n"
        "from clipseg_kfp.engine.checkpoint import fetch\n"
        "try:\n"
        "    result = asdict(fetch(sys.argv[1], Path(sys.argv[2])))\n"
        "except ClipsegKfpError as error:\n"
        "    result = error.record()\n"
        "print(json.dumps(result))\n"
    )

    def run(uri: str, target: str, endpoint: str, **environment: str) -> dict[str, Any]:
        inherited = {k: v for k, v in os.environ.items() if "proxy" not in k.lower() and k[:3] != "HF_"}
        done = subprocess.run(
            [sys.executable, "-c", program, uri, str(tmp_path / target)],
            env={**inherited, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"),
                 "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
                 "HF_HUB_DISABLE_XET": "1", **environment},
            cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=90, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return result

    return run


def test_a_hub_model_is_pinned_and_then_works_offline(
    hub: Hub, fetch_in_process: Run, checkpoint: Path, tmp_path: Path
) -> None:
    first = fetch_in_process("hf://org/clipseg@v1.0", "first", hub.url)
    assert first["revision"] == COMMIT
    assert tuple(first["files"]) == FILES
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == list(FILES)
    assert not any(path.is_symlink() for path in (tmp_path / "first").iterdir())
    for name in FILES:
        assert (tmp_path / "first" / name).read_bytes() == (checkpoint / name).read_bytes()
    assert not [line for line in hub.requests if "pytorch_model.bin" in line or "onnx" in line]

    # Another program takes the pickle of the same commit into the cache: it must not come along.
    (snapshot,) = (tmp_path / "hf/hub/models--org--clipseg/snapshots").iterdir()
    (snapshot / "pytorch_model.bin").write_bytes(b"\x80\x04K\x01.")
    (snapshot / "onnx").mkdir()
    hub.stop()
    offline = fetch_in_process("hf://org/clipseg@v1.0", "offline", hub.url, HF_HUB_OFFLINE="1")
    assert {**offline, "uri": ""} == {**first, "uri": ""}
    unreachable = fetch_in_process(f"hf://org/clipseg@{COMMIT}", "pinned", hub.url)
    assert (unreachable["digest"], unreachable["revision"]) == (first["digest"], COMMIT)


def test_a_model_that_was_never_cached_needs_the_hub(hub: Hub, fetch_in_process: Run) -> None:
    hub.stop()
    for environment in ({}, {"HF_HUB_OFFLINE": "1"}):
        failed = fetch_in_process("hf://org/clipseg", "target", hub.url, **environment)
        assert (failed["code"], failed["where"]) == ("hub_unreachable", "hf://org/clipseg")


def test_what_the_hub_does_not_have_is_named(hub: Hub, fetch_in_process: Run) -> None:
    unknown = fetch_in_process("hf://org/unknown", "unknown", hub.url)
    assert (unknown["code"], unknown["where"]) == ("hub_model_missing", "hf://org/unknown")
    assert "HF_TOKEN" in unknown["remedy"]
    revision = fetch_in_process("hf://org/clipseg@v9", "revision", hub.url)
    assert (revision["code"], revision["where"]) == ("hub_revision_missing", "hf://org/clipseg@v9")


def test_a_hub_model_of_pickles_is_refused_by_name(hub: Hub, fetch_in_process: Run, tmp_path: Path) -> None:
    refused = fetch_in_process("hf://org/pickled", "target", hub.url)
    assert (refused["code"], refused["where"]) == ("checkpoint_not_safetensors", "hf://org/pickled")
    assert "pytorch_model.bin" in refused["what"]
    assert not [line for line in hub.requests if "resolve" in line and "pytorch_model" in line]


def test_a_gated_model_asks_for_credentials(hub: Hub, fetch_in_process: Run) -> None:
    hub.gated = True
    failed = fetch_in_process("hf://org/clipseg", "target", hub.url)
    assert (failed["code"], failed["where"]) == ("hub_model_missing", "hf://org/clipseg")


def test_a_proxy_that_does_not_answer_is_an_error_with_a_message(fetch_in_process: Run) -> None:
    failed = fetch_in_process(
        "hf://org/clipseg", "target", "http://hub.invalid", HTTP_PROXY="http://127.0.0.1:9", NO_PROXY=""
    )
    assert (failed["code"], failed["where"]) == ("hub_unreachable", "hf://org/clipseg")
