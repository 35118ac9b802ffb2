"""Masks in the formats that people work with.

Every function takes rows of ``records.IMAGES`` and ``records.MASKS`` as streams, in the order in which they
lie in the results, and returns how many images (of a CSV file: rows) it wrote.
"""

from clipseg_kfp.results.formats.by_name import NAMES, export_named
from clipseg_kfp.results.formats.coco import export_coco
from clipseg_kfp.results.formats.labelstudio import export_labelstudio
from clipseg_kfp.results.formats.polygons import TOLERANCE
from clipseg_kfp.results.formats.tables import export_csv
from clipseg_kfp.results.formats.yolo import export_yolo

__all__ = [
    "NAMES",
    "TOLERANCE",
    "export_coco",
    "export_csv",
    "export_labelstudio",
    "export_named",
    "export_yolo",
]
