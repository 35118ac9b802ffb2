"""The container image that the components run in unless a compile names another, and what a reference tells."""

import os
import re

from pydantic import TypeAdapter, ValidationError

from clipseg_kfp import __version__
from clipseg_kfp.errors import ParameterError
from clipseg_kfp.site.kubernetes import Image

#: ``clipseg-kfp compile --image`` sets another. kfp's local runner warns unless "python" is in the name.
DEFAULT_IMAGE = f"clipseg-kfp-python-cpu:{__version__}"
#: The environment variable that names an image once, for the plain kfp SDK as well.
VARIABLE = "CLIPSEG_KFP_IMAGE"
_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")


def use_image(image: str) -> None:
    """Names the image that all components run in, as ``CLIPSEG_KFP_IMAGE`` in the environment does.

    It counts for whatever is compiled from now on in this process: this project's pipelines, and pipelines of
    your own, which kfp traces where ``@dsl.pipeline`` stands. What a compile or a task names itself wins.

    Args:
        image: such as ``registry.example/clipseg-kfp@sha256:…``; empty takes the name back.

    Raises:
        ParameterError: no image reference.
    """
    os.environ[VARIABLE] = _checked(image, "use_image") if image else ""


def chosen_image() -> str:
    """The image that ``use_image`` or the environment names; empty where neither does.

    Raises:
        ParameterError: the environment has no image reference there.
    """
    image = os.environ.get(VARIABLE, "")
    return _checked(image, VARIABLE) if image else ""


def _checked(image: str, where: str) -> str:
    try:
        return TypeAdapter(Image).validate_python(image)
    except ValidationError as error:
        raise ParameterError(
            f"{where}: {error.errors()[0]['msg'].removeprefix('Value error, ')}.",
            "Name it as registry/name@sha256:….",
            code="image_reference",
            where=where,
        ) from None


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
