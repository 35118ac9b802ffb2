"""``python -m clipseg_kfp.cli``."""

from clipseg_kfp.cli import main

main()
