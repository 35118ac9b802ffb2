"""Masks in the formats that people work with.

Every function takes rows of ``records.IMAGES`` and ``records.MASKS`` as streams, in the order in which they
lie in the results, and returns how many images (of a CSV file: rows) it wrote.
"""

from clipseg_kfp.formats.coco import export_coco
from clipseg_kfp.formats.labelstudio import export_labelstudio
from clipseg_kfp.formats.named import NAMES, export_named
from clipseg_kfp.formats.polygons import TOLERANCE
from clipseg_kfp.formats.tables import export_csv
from clipseg_kfp.formats.yolo import export_yolo

__all__ = [
    "NAMES",
    "TOLERANCE",
    "export_coco",
    "export_csv",
    "export_labelstudio",
    "export_named",
    "export_yolo",
]
