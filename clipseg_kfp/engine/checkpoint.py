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
MODEL_FILES = (
    "config.json", "model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors",
    "preprocessor_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
)  # fmt: skip
UNSAFE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npy", ".h5", ".msgpack", ".joblib")

_HF = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?$")
_BILINEAR = 2
_URI = "Give hf://org/name@revision, s3://… or a folder."
_AGAIN = "Fetch the checkpoint again."
#: What helps, by the code of the error.
_REMEDIES = {
    "checkpoint_config": "Fetch the checkpoint again, or correct its config.json.",
    "checkpoint_json": _AGAIN,
    "checkpoint_missing": "Check the place; config.json must lie right there.",
    "checkpoint_not_clipseg": "Use a checkpoint of CLIPSegForImageSegmentation, such as "
    "CIDAS/clipseg-rd64-refined.",
    "checkpoint_not_safetensors": "Convert it with save_pretrained of a current transformers.",
    "checkpoint_patch_size": "Such models need a patch_size of 16.",
    "checkpoint_unloadable": _AGAIN,
    "checkpoint_without_processor": "Save it beside the weights: CLIPSegProcessor.save_pretrained.",
    "hub_failed": "Try again later, mirror it to s3://…, or give a folder.",
    "hub_model_missing": "Check its name; private models need HF_TOKEN in the environment.",
    "hub_revision_missing": "Give a branch, a tag or a commit of it.",
    "hub_unreachable": "Run once with a connection, mirror it to s3://…, or give a folder.",
    "preprocessing_unsupported": "Use the checkpoint's own processor, such as that of "
    "CIDAS/clipseg-rd64-refined.",
    "tokenizer_missing": "Text prompts need one of them.",
    "tokenizer_unloadable": _AGAIN,
    "weights_missing": "Take a whole CLIPSegForImageSegmentation, decoder included.",
    "weights_not_finite": _AGAIN,
}


@dataclass(frozen=True)
class FetchedModel:
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


def fetch(uri: str, target: Path, endpoint: str = "") -> FetchedModel:
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
    _require_uri(uri)
    target.mkdir(parents=True, exist_ok=True)
    if uri.startswith("hf://"):
        revision, left_out = _from_hub(uri, target)
    else:
        revision, left_out = "", _from_store(uri, target, endpoint)
    files = sorted(path.name for path in target.iterdir())
    _require_safe(uri, files, left_out)
    digest = digest_of(target)
    return FetchedModel(uri, revision or digest, digest, tuple(files), tuple(left_out))


def check_uri(uri: str, endpoint: str = "") -> None:
    """Raises what ``fetch`` would fail with, as far as that can be seen without fetching.

    Raises:
        ModelError: a folder or prefix without a configuration.
        ParameterError: a URI of an unknown form.
        StorageError: the store failed.
    """
    _require_uri(uri)
    if uri.startswith("hf://"):
        _parse_hub_uri(uri)
    elif open_folder(uri, endpoint).stat("config.json") is None:
        raise _missing(uri)


def _require_uri(uri: str) -> None:
    if not uri:
        raise ParameterError("model_uri is empty.", _URI, code="uri_empty", where="model_uri")


def unusable(code: str, where: str | Path, message: str) -> ModelError:
    """The error of a checkpoint that cannot be used, with the remedy of its code."""
    return ModelError(message, _REMEDIES[code], code=code, where=str(where))


def _missing(place: str | Path) -> ModelError:
    return unusable("checkpoint_missing", place, f"There is no checkpoint at {place}.")


def _parse_hub_uri(uri: str) -> tuple[str, str | None]:
    match = _HF.match(uri)
    if not match:
        raise ParameterError(
            f"'{uri}' does not have the form hf://org/name@revision.", _URI, code="hub_uri", where=uri
        )
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
        snapshot = Path(snapshot_download(repo, revision=revision, allow_patterns=list(MODEL_FILES)))
    except HFValidationError as error:
        message = f"'{uri}' does not name a model of the Hub: {_line(error)}"
        raise ParameterError(message, _URI, code="hub_uri", where=uri) from error
    except RevisionNotFoundError as error:
        message = f"The model '{repo}' has no revision '{revision or 'main'}'."
        raise unusable("hub_revision_missing", uri, message) from error
    except HfHubHTTPError as error:
        if error.response.status_code not in (401, 403, 404):
            message = f"The Hub failed on the model '{repo}': {_line(error)}"
            raise unusable("hub_failed", uri, message) from error
        message = f"The Hub has no model '{repo}' that these credentials may read."
        raise unusable("hub_model_missing", uri, message) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        message = f"The model '{repo}' is not in the local cache and the Hub cannot be reached."
        raise unusable("hub_unreachable", uri, message) from error
    except Exception as error:  # a proxy, a full disk: the HTTP client's errors have no common public base
        message = f"The model '{repo}' could not be fetched from the Hub: {_line(error)}"
        raise unusable("hub_failed", uri, message) from error
    # The cache may hold more of this commit, pickles included, for the sake of other programs.
    cached = [path for path in snapshot.iterdir() if path.is_file()] if snapshot.is_dir() else []
    needed = [path for path in cached if _is_model_file(path.name)]
    for path in needed:
        shutil.copyfile(path, target / path.name)  # cached files are links into the cache
    safe = any(path.name.endswith(".safetensors") for path in needed)
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
        if _is_model_file(entry.key):
            folder.download(entry.key, target / entry.key)
        elif entry.key.lower().endswith(UNSAFE_SUFFIXES):
            left_out.append(entry.key)
    return sorted(left_out)


def _is_model_file(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in MODEL_FILES)


def _require_safe(uri: str, files: list[str], left_out: list[str]) -> None:
    if not files and not left_out:
        raise _missing(uri)
    if not any(name.endswith(".safetensors") for name in files):
        refused = f" Refused, since loading them can run code: {', '.join(left_out)}." if left_out else ""
        raise unusable("checkpoint_not_safetensors", uri, f"{uri} has no safetensors weights.{refused}")
    if "config.json" not in files:
        raise _missing(uri)


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
    config_path = folder / "config.json"
    if not config_path.is_file():
        raise _missing(folder)
    config = _json(config_path)
    if config.get("model_type") != "clipseg":
        message = f"{folder} holds a model of type '{config.get('model_type')}', not a CLIPSeg."
        raise unusable("checkpoint_not_clipseg", config_path, message)
    path, settings = _processor_settings(folder)
    size: Any = settings.get("size")
    sides = [size.get("height"), size.get("width")] if isinstance(size, dict) else [size, size]
    side: Any = sides[0]
    square = isinstance(side, int) and side >= 1 and side == sides[1]
    vision = config.get("vision_config")
    patch = vision.get("patch_size", 32) if isinstance(vision, dict) else 32
    fits = square and isinstance(patch, int) and patch >= 1 and side % patch == 0
    whole = settings.get("resample", _BILINEAR) == _BILINEAR and not settings.get("do_center_crop")
    factor = settings.get("rescale_factor", 1 / 255)
    scaled = isinstance(factor, float) and math.isclose(factor, 1 / 255)
    scaled = scaled and all(settings.get(f"do_{step}", True) for step in ("resize", "rescale", "normalize"))
    mean, std = (_three_numbers(settings.get(name)) for name in ("image_mean", "image_std"))
    for field, holds, problem in (
        ("size", square, f"it asks for size {size}, and CLIPSeg needs a square"),
        ("resample", whole, "only a bilinear stretch without cropping is supported"),
        ("rescale_factor", scaled, "only scaling by 1/255 and normalization are supported"),
        ("size", fits, f"the image size {side} is not a multiple of the patch size {patch} of config.json"),
        ("image_mean", mean, "it needs image_mean, one number per color channel"),
        ("image_std", std and min(std) > 0, "it needs image_std, one positive number per color channel"),
    ):
        if not holds:
            raise unusable("preprocessing_unsupported", f"{path}: {field}", f"{path}: {problem}.")
    if config.get("use_complex_transposed_convolution") and (patch // 4) ** 2 != patch:
        message = (
            f"With the complex transposed convolution, patches of {patch} pixels give masks of another size."
        )
        raise unusable("checkpoint_patch_size", config_path, f"{config_path}: {message}")
    width = config.get("projection_dim", 512)
    if not isinstance(width, int):
        field = f"{config_path}: projection_dim"
        raise unusable("checkpoint_config", field, f"{field} must be a whole number.")
    assert mean and std
    return ModelFacts(digest_of(folder), side, mean, std, width)


def _processor_settings(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The image processor's settings and their file, found in the order of transformers."""
    path = folder / "processor_config.json"
    settings = _json(path).get("image_processor")
    if not settings:
        path = folder / "preprocessor_config.json"
        settings = _json(path)
    if not isinstance(settings, dict) or not settings:
        message = f"{folder} has no preprocessor_config.json, or an empty one."
        raise unusable("checkpoint_without_processor", path, message)
    return path, settings


def _three_numbers(value: Any) -> tuple[float, float, float] | None:
    try:
        red, green, blue = (float(number) for number in value)
    except (TypeError, ValueError):
        return None
    return red, green, blue


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise unusable("checkpoint_json", path, f"{path} is not valid JSON: {_line(error)}.") from error
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

    transformers_logging: Any = logging  # has no types
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    torch.set_num_threads(cpu_limit())  # torch counts the node's cores, whatever the pod may use
    try:
        loaded: Any = CLIPSegForImageSegmentation.from_pretrained(
            folder, dtype="float32", use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except Exception as error:  # a wrong value in config.json may raise nearly anything
        message = f"The checkpoint in {folder} cannot be loaded: {_line(error)}"
        raise unusable("checkpoint_unloadable", folder, message) from error
    model: CLIPSegForImageSegmentation = loaded[0]
    missing = sorted(loaded[1]["missing_keys"])
    if missing:
        names = ", ".join(missing[:3])
        message = f"The checkpoint in {folder} lacks {len(missing)} weights, among them {names}."
        raise unusable("weights_missing", missing[0], message)
    for name, weight in model.named_parameters():
        if not math.isfinite(float(weight.detach().sum())):
            raise unusable("weights_not_finite", name, f"The weight '{name}' in {folder} is not finite.")
    model.train(False)
    return model


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """Loads the tokenizer that lies beside the weights.

    Raises:
        ModelError: missing or unreadable tokenizer files.
    """
    from transformers import CLIPTokenizer

    if not any((folder / name).exists() for name in ("tokenizer.json", "vocab.json")):
        raise unusable("tokenizer_missing", folder, f"{folder} has no tokenizer.json and no vocab.json.")
    try:
        tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # damaged files raise nearly anything, a bare Exception included
        message = f"The tokenizer in {folder} cannot be loaded: {_line(error)}"
        raise unusable("tokenizer_unloadable", folder, message) from error
    return tokenizer
