"""What a pixel covers on the ground, read from GeoTIFF files."""

from __future__ import annotations

import math

from PIL import Image, TiffImagePlugin

from clipseg_kfp.images.tiff import Samples

_PIXEL_SCALE, _GEO_KEYS = 33550, 34735  # TIFF tags of the GeoTIFF standard (OGC 19-008r4, annex on tags)
_MODEL_TYPE, _LINEAR_UNITS = 1024, 3076  # keys in the directory
_PROJECTED = 1
_METERS = {9001: 1.0, 9002: 0.3048, 9003: 1200 / 3937}  # EPSG: meter, international foot, US survey foot


def meters_per_pixel(image: Image.Image) -> float:
    """Reads the ground resolution from the tags of a GeoTIFF.

    The file must state a projected coordinate system, its linear unit and the pixel scale. Degrees are not
    lengths, and a unit that only follows from an EPSG code is not guessed.

    Args:
        image: opened; its header suffices.

    Returns:
        Meters, the geometric mean of both axes; 0 where the file does not say it.
    """
    if not isinstance(image, TiffImagePlugin.TiffImageFile | Samples):
        return 0.0
    try:
        directory = [int(value) for value in image.tag_v2.get(_GEO_KEYS, ())]
        across, down = (float(value) for value in image.tag_v2.get(_PIXEL_SCALE, ())[:2])
    except (TypeError, ValueError):  # tags of another type or length than the standard's
        return 0.0
    # After a header of four values, each key has four: its number, the tag of its value (0: right here), how
    # many values, the value.
    keys = {directory[i]: directory[i + 3] for i in range(4, len(directory) - 3, 4) if directory[i + 1] == 0}
    meters = _METERS.get(keys.get(_LINEAR_UNITS, 0), 0.0) if keys.get(_MODEL_TYPE) == _PROJECTED else 0.0
    area = across * down
    return meters * math.sqrt(area) if 0 < area < math.inf else 0.0
