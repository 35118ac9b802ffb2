"""The container image that the components run in, unless a compile names another."""

from clipseg_kfp import __version__

#: Set the registry with ``clipseg-kfp compile --image``. "python" in the name tells the local runner what it is.
DEFAULT_IMAGE = f"clipseg-kfp-python-cpu:{__version__}"
