"""The one-shot demo: six example pictures in place of words, and sixteen scenes to search.

The demo model was trained to read a picture of a thing as "of this shape, in this color". So each prompt is a pair of
both: the first shape in the first color, the second in the second, and so on. Masks are compared with all things of
that shape and color, of any texture. Seeds differ from those of all other scenes, of the demo and of the training.
"""

from __future__ import annotations

from collections.abc import Iterator

from clipseg_kfp.demo.bucket import mask_png, png
from clipseg_kfp.demo.scenes import COLORS, SHAPES, Query, draw_scene

#: The things to find, by the prompt's name, such as ``red circle``.
SHOWN: dict[str, Query] = {
    query.noun: query for query in (Query(shape, color) for shape, color in zip(SHAPES, COLORS, strict=False))
}

#: The example picture of each prompt: the first seed from ``FIRST_SHOWN`` on whose scene shows the thing on at least
#: ``SHARE_SHOWN`` of the picture.
FIRST_SHOWN, SHARE_SHOWN = 4000, 0.02
SHOWN_SEEDS: dict[str, int] = dict(zip(SHOWN, (4020, 4016, 4001, 4020, 4012, 4001), strict=True))

#: The pictures to search, by the same rule: the first ``SCENES_EACH`` of each prompt; all count for all prompts.
FIRST_SEARCHED, SHARE_SEARCHED, SCENES_EACH = 5000, 0.01, 3
SEARCHED_SEEDS = (
    5005, 5007, 5009, 5012, 5014, 5016, 5022, 5025, 5029, 5032, 5035, 5045, 5063, 5064, 5072, 5136,
)  # fmt: skip


def one_shot_objects() -> Iterator[tuple[str, bytes]]:
    """Yields the key and the content of every object.

    ``support/<name>/`` has the example picture of each prompt with its mask, ``dataset/`` the images to search and
    their ground truth, laid out as the pipelines expect.
    """
    for name, seed in SHOWN_SEEDS.items():
        scene = draw_scene(seed)
        yield f"support/{name}/images/scene-{seed}.png", png(scene.image)
        yield f"support/{name}/masks/scene-{seed}.png", mask_png(scene.mask(SHOWN[name]))
    for seed in SEARCHED_SEEDS:
        scene = draw_scene(seed)
        yield f"dataset/images/scene-{seed}.png", png(scene.image)
        for name, query in SHOWN.items():
            yield f"dataset/masks/{name}/scene-{seed}.png", mask_png(scene.mask(query))
