"""Importing OpenVINO without its usage statistics.

OpenVINO and NNCF report conversions to their maker unless the user has opted out, and leave an identifier in
the home directory. What a pod does is its owner's business alone: both packages work without the module that
reports, and are made to do so here. Import them after this module.
"""

import sys
from types import ModuleType
from typing import cast

sys.modules.setdefault("openvino_telemetry", cast(ModuleType, None))  # importing it fails from now on
