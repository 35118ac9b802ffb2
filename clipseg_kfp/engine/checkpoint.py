"""Checkpoints: where they come from, what is taken of them, and how they are loaded.

Only safetensors weights and JSON or text files are ever touched: nothing here can unpickle.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipseg_kfp.errors import ModelError, ParameterError
from clipseg_kfp.runtime.resources import cpu_limit
from clipseg_kfp.storage import open_folder

if TYPE_CHECKING:
    from transformers import CLIPSegForImageSegmentation, CLIPTokenizer

#: The files of a checkpoint that matter; everything else stays where it is.
WANTED = (
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
UNSAFE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npy", ".h5", ".msgpack", ".joblib")

_HF = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?$")
_BILINEAR = 2


@dataclass(frozen=True)
class Fetched:
    """What fetch_model learned.

    Attributes:
        uri: where the checkpoint came from.
        revision: the resolved commit for ``hf://``, else the digest.
        digest: sha256 (32 hex digits) over names and contents of all files taken.
        files: names of the files taken.
        left_out: pickles and the like that were not taken.
    """

    uri: str
    revision: str
    digest: str
    files: tuple[str, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class ModelFacts:
    """What later steps need to know of a model without having it.

    Attributes:
        digest: of the checkpoint.
        image_size: side of the model's square input in pixels.
        mean: of each channel, for normalization.
        std: of each channel.
        projection_dim: width of a conditional embedding.
    """

    digest: str
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    projection_dim: int

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary for a JSON file."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ModelFacts:
        """The opposite of ``to_json``."""
        return cls(**{**value, "mean": tuple(value["mean"]), "std": tuple(value["std"])})


def fetch(uri: str, target: Path, endpoint: str = "") -> Fetched:
    """Brings a checkpoint into a local folder.

    Args:
        uri: ``hf://org/name@revision``, ``s3://bucket/prefix``, ``file:///folder`` or a path.
        target: the folder to fill; made if missing.
        endpoint: S3 endpoint URL, as for ``open_folder``.

    Raises:
        ModelError: nothing there, unsafe weights only, or the Hub out of reach and the files not cached.
        ParameterError: a URI of another form.
        StorageError: the store failed.
    """
    if not uri:
        raise ParameterError("model_uri is empty.", "Give hf://org/name@revision, s3://… or a folder.")
    target.mkdir(parents=True, exist_ok=True)
    if uri.startswith("hf://"):
        revision, left_out = _from_hub(uri, target)
    else:
        revision, left_out = "", _from_store(uri, target, endpoint)
    files = sorted(path.name for path in target.iterdir())
    _require_safe(uri, files, left_out)
    digest = digest_of(target)
    return Fetched(uri, revision or digest, digest, tuple(files), tuple(left_out))


def check_uri(uri: str, endpoint: str = "") -> None:
    """Says at once what ``fetch`` would fail at, as far as that can be seen without fetching.

    Raises:
        ModelError: a folder or prefix without a configuration.
        ParameterError: a URI of an unknown form.
        StorageError: the store failed.
    """
    if uri.startswith("hf://"):
        _parse_hub_uri(uri)
    elif not uri:
        raise ParameterError("model_uri is empty.", "Give hf://org/name@revision, s3://… or a folder.")
    elif open_folder(uri, endpoint).stat("config.json") is None:
        raise ModelError(
            f"There is no checkpoint at {uri}.", "Check the URI; config.json must lie right there."
        )


def _parse_hub_uri(uri: str) -> tuple[str, str | None]:
    match = _HF.match(uri)
    if not match:
        raise ParameterError(f"'{uri}' is not of the form hf://org/name@revision.")
    return match["repo"], match["revision"]


def _from_hub(uri: str, target: Path) -> tuple[str, list[str]]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RevisionNotFoundError,
    )

    repo, revision = _parse_hub_uri(uri)
    try:
        snapshot = Path(snapshot_download(repo, revision=revision, allow_patterns=list(WANTED)))
    except HFValidationError as error:
        raise ParameterError(f"'{uri}' names no model of the Hub: {_line(error)}") from error
    except RevisionNotFoundError as error:
        raise ModelError(f"The model '{repo}' has no revision '{revision or 'main'}'.") from error
    except HfHubHTTPError as error:
        if error.response.status_code not in (401, 403, 404):
            raise ModelError(
                f"The Hub failed on the model '{repo}': {_line(error)}", "Try again later."
            ) from error
        raise ModelError(
            f"The Hub has no model '{repo}' that these credentials may read.",
            "Check its name; private models need HF_TOKEN in the environment.",
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise ModelError(
            f"The model '{repo}' is not in the local cache and the Hub cannot be reached.",
            "Run once with a connection, mirror it to s3://…, or give a folder.",
        ) from error
    except Exception as error:  # a proxy, a full disk: the HTTP client's errors have no common public base
        raise ModelError(f"The model '{repo}' could not be fetched from the Hub: {_line(error)}") from error
    # The cache may hold more of this commit, pickles included, for the sake of other programs.
    cached = [path for path in snapshot.iterdir() if path.is_file()] if snapshot.is_dir() else []
    wanted = [path for path in cached if _is_wanted(path.name)]
    for path in wanted:
        shutil.copyfile(path, target / path.name)  # cached files are links into the cache
    safe = any(path.name.endswith(".safetensors") for path in wanted)
    return snapshot.name, [] if safe else _pickles_on_hub(repo, snapshot.name)


def _pickles_on_hub(repo: str, revision: str) -> list[str]:
    """Names what cannot be taken, to say why a model is refused; nothing where the Hub does not answer."""
    from huggingface_hub import HfApi

    try:
        names = HfApi().list_repo_files(repo, revision=revision)
    except Exception:  # the refusal itself is certain, and matters more than its details
        return []
    return [name for name in names if "/" not in name and name.lower().endswith(UNSAFE_SUFFIXES)]


def _from_store(uri: str, target: Path, endpoint: str) -> list[str]:
    folder = open_folder(uri, endpoint)
    left_out = []
    for entry in folder.entries():
        if "/" in entry.key:
            continue
        if _is_wanted(entry.key):
            folder.download(entry.key, target / entry.key)
        elif entry.key.lower().endswith(UNSAFE_SUFFIXES):
            left_out.append(entry.key)
    return sorted(left_out)


def _is_wanted(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in WANTED)


def _require_safe(uri: str, files: list[str], left_out: list[str]) -> None:
    if not files and not left_out:
        raise ModelError(
            f"There is no checkpoint at {uri}.", "Check the URI; config.json must lie right there."
        )
    if not any(name.endswith(".safetensors") for name in files):
        found = f" Refused, since loading them can run code: {', '.join(left_out)}." if left_out else ""
        raise ModelError(
            f"{uri} has no safetensors weights.{found}",
            "Convert the checkpoint with save_pretrained of a current transformers.",
        )
    if "config.json" not in files:
        raise ModelError(f"{uri} has no config.json.", "Check the URI; config.json must lie right there.")


def digest_of(folder: Path) -> str:
    """Returns 32 hex digits over the names and contents of a folder's files."""
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        with path.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        total.update(f"{path.name}\0{content}\n".encode())
    return total.hexdigest()[:32]


def text_length(folder: Path) -> int:
    """How many tokens of a text a checkpoint reads."""
    settings = _json(folder / "config.json").get("text_config") or {}
    return int(settings.get("max_position_embeddings", 77))


def read_facts(folder: Path) -> ModelFacts:
    """Reads what a checkpoint expects of its input, from its configuration files alone.

    Raises:
        ModelError: not a CLIPSeg, or preprocessing that this suite does not do.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(
            f"There is no checkpoint at {folder}.", "Check the path; config.json must lie right there."
        )
    config = _json(path)
    if config.get("model_type") != "clipseg":
        raise ModelError(
            f"{folder} holds a model of type '{config.get('model_type')}', not a CLIPSeg.",
            "Use a checkpoint of CLIPSegForImageSegmentation, such as CIDAS/clipseg-rd64-refined.",
        )
    # In this order, as transformers does it.
    path = folder / "processor_config.json"
    settings = _json(path).get("image_processor")
    if not settings:
        path = folder / "preprocessor_config.json"
        settings = _json(path)
    if not isinstance(settings, dict) or not settings:
        raise ModelError(
            f"{folder} has no preprocessor_config.json, or an empty one.",
            "Save the processor beside the weights: CLIPSegProcessor.save_pretrained.",
        )
    processor = (
        "Use the processor that belongs to the checkpoint, such as that of CIDAS/clipseg-rd64-refined."
    )
    size = settings.get("size")
    sides = (size.get("height"), size.get("width")) if isinstance(size, dict) else (size, size)
    if not isinstance(sides[0], int) or sides[0] < 1 or sides[0] != sides[1]:
        raise ModelError(f"{path} asks for size {size}; CLIPSeg needs a square.", processor)
    if settings.get("resample", _BILINEAR) != _BILINEAR or settings.get("do_center_crop"):
        raise ModelError(
            f"{path}: only a bilinear stretch without cropping is supported as preprocessing.", processor
        )
    factor = settings.get("rescale_factor", 1 / 255)
    steps = all(settings.get(f"do_{step}", True) for step in ("resize", "rescale", "normalize"))
    if not steps or not isinstance(factor, float) or not math.isclose(factor, 1 / 255):
        raise ModelError(
            f"{path}: only scaling by 1/255 and normalization are supported as preprocessing.", processor
        )
    vision = config.get("vision_config")
    patch = vision.get("patch_size", 32) if isinstance(vision, dict) else 32
    if not isinstance(patch, int) or patch < 1 or sides[0] % patch:
        raise ModelError(
            f"{path}: the image size {sides[0]} is no multiple of the patch size {patch} of config.json.",
            processor,
        )
    if config.get("use_complex_transposed_convolution") and (patch // 4) ** 2 != patch:
        raise ModelError(
            f"{folder}: with the complex transposed convolution, masks of {patch} pixel patches do not have "
            "the size of the image.",
            "Such models need a patch_size of 16.",
        )
    mean, std = (_three_numbers(path, settings, name, processor) for name in ("image_mean", "image_std"))
    if min(std) <= 0:
        raise ModelError(f"{path}: image_std must be positive.", processor)
    width = config.get("projection_dim", 512)
    if not isinstance(width, int):
        raise ModelError(
            f"{folder / 'config.json'}: projection_dim is no whole number.",
            "Fetch the checkpoint again, or correct that file.",
        )
    return ModelFacts(digest_of(folder), sides[0], mean, std, width)


def _three_numbers(
    path: Path, settings: dict[str, Any], name: str, remedy: str
) -> tuple[float, float, float]:
    try:
        red, green, blue = (float(value) for value in settings[name])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path} needs {name}, one number a color channel.", remedy) from error
    return red, green, blue


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"{path} is not valid JSON: {_line(error)}.", "Fetch the checkpoint again."
        ) from error
    return value if isinstance(value, dict) else {}


def _line(error: Exception) -> str:
    """The first line of an error's text, or its kind where it has none."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def load_model(folder: Path) -> CLIPSegForImageSegmentation:
    """Loads a checkpoint in float32 for inference, with as many threads as this process has CPUs.

    Raises:
        ModelError: weights that do not belong to the configuration, or that are not finite.
    """
    import torch
    from transformers import CLIPSegForImageSegmentation
    from transformers.utils import logging

    quieten: Any = logging  # transformers' logging module has no types
    quieten.disable_progress_bar()
    quieten.set_verbosity_error()
    torch.set_num_threads(cpu_limit())  # torch counts the node's cores, whatever the pod may use
    try:
        loaded: Any = CLIPSegForImageSegmentation.from_pretrained(
            folder, dtype="float32", use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except Exception as error:  # a wrong value in config.json may raise nearly anything
        raise ModelError(
            f"The checkpoint in {folder} cannot be loaded: {_line(error)}", "Fetch the checkpoint again."
        ) from error
    model: CLIPSegForImageSegmentation = loaded[0]
    report: dict[str, Any] = loaded[1]
    if report["missing_keys"]:
        names = ", ".join(sorted(report["missing_keys"])[:3])
        raise ModelError(
            f"The checkpoint in {folder} lacks {len(report['missing_keys'])} weights, among them {names}.",
            "Is it a whole CLIPSegForImageSegmentation, decoder included?",
        )
    for name, weight in model.named_parameters():
        if not math.isfinite(float(weight.detach().sum())):
            raise ModelError(f"The weight '{name}' in {folder} is not finite.", "Fetch the checkpoint again.")
    model.train(False)
    return model


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """Loads the tokenizer that lies beside the weights.

    Raises:
        ModelError: missing or unreadable tokenizer files.
    """
    from transformers import CLIPTokenizer

    if not any((folder / name).exists() for name in ("tokenizer.json", "vocab.json")):
        raise ModelError(
            f"{folder} has no tokenizer.json and no vocab.json.", "Text prompts need one of them."
        )
    try:
        tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # damaged files raise nearly anything, a bare Exception included
        raise ModelError(
            f"The tokenizer in {folder} cannot be loaded: {_line(error)}", "Fetch the checkpoint again."
        ) from error
    return tokenizer
