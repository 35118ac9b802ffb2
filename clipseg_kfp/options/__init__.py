"""Every option of the suite, declared once; everything else about options derives from here.

``groups`` declares them. ``declare`` is how that is done, ``values`` reads what people give, ``tables`` shows them.
"""

from clipseg_kfp.options.declare import Group
from clipseg_kfp.options.groups import GROUPS, GroundTruth, Inference, Limits, Outputs, Support, Views
from clipseg_kfp.options.tables import json_schema, markdown
from clipseg_kfp.options.values import (
    add_word,
    check_moved,
    dotted_names,
    from_word,
    nested,
    options_of,
    over_own_defaults,
    read_groups,
    value_of,
)

__all__ = [
    "GROUPS",
    "GroundTruth",
    "Group",
    "Inference",
    "Limits",
    "Outputs",
    "Support",
    "Views",
    "add_word",
    "check_moved",
    "dotted_names",
    "from_word",
    "json_schema",
    "markdown",
    "nested",
    "options_of",
    "over_own_defaults",
    "read_groups",
    "value_of",
]
