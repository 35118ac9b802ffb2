"""The container image that the components run in, unless a compile names another."""

from clipseg_kfp import __version__

#: ``clipseg-kfp compile --image`` sets another. kfp's local runner warns unless "python" is in the name.
DEFAULT_IMAGE = f"clipseg-kfp-python-cpu:{__version__}"
