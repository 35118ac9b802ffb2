"""Every option of the suite, declared once; everything else about options derives from here.

``groups`` declares them. ``declare`` is how that is done, ``values`` reads what people give, ``tables`` shows them.
"""

from clipseg_kfp.options.declare import Group
from clipseg_kfp.options.groups import GROUPS, GroundTruth, Inference, Limits, Outputs, Support, Views
from clipseg_kfp.options.tables import json_schema, markdown
from clipseg_kfp.options.values import dotted_names, from_word, nested, read_groups

__all__ = [
    "GROUPS",
    "GroundTruth",
    "Group",
    "Inference",
    "Limits",
    "Outputs",
    "Support",
    "Views",
    "dotted_names",
    "from_word",
    "json_schema",
    "markdown",
    "nested",
    "read_groups",
]
