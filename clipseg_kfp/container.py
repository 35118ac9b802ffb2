"""The container image that the components run in unless a compile names another, and what a reference tells."""

import re

from clipseg_kfp import __version__

#: ``clipseg-kfp compile --image`` sets another. kfp's local runner warns unless "python" is in the name.
DEFAULT_IMAGE = f"clipseg-kfp-python-cpu:{__version__}"
_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")


def is_pinned(image: str) -> bool:
    """Whether a digest says what the image holds."""
    return bool(_DIGEST.search(image))


def has_registry(image: str) -> bool:
    """Whether an image reference names a registry."""
    first, slash, _ = image.partition("/")
    return bool(slash) and ("." in first or ":" in first or first == "localhost")


def without_registry(image: str) -> str:
    """What to say of an image that names no registry."""
    return (
        f"{image} names no registry: nodes look at docker.io, unless it was loaded onto them. Upload with "
        "--image registry/name@sha256:…."
    )


def image_warning(image: str) -> str:
    """What speaks against an image reference in a package; nothing where it is pinned and has a registry."""
    if not has_registry(image):
        return without_registry(image)
    if is_pinned(image):
        return ""
    return f"{image} has no digest: what runs may change with its tag. Name it as …@sha256:…."
