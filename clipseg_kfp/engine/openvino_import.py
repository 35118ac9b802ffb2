"""OpenVINO without its usage statistics: import it from here.

OpenVINO and NNCF report conversions to their maker unless the user has opted out, and leave an identifier in
the home directory. Both packages work without the module that reports, so it is made impossible to import.
"""

import sys
from types import ModuleType
from typing import cast

sys.modules.setdefault("openvino_telemetry", cast(ModuleType, None))  # importing it fails from now on

import openvino as ov  # noqa: E402

__all__ = ["ov"]
