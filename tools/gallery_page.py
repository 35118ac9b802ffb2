"""The text of the gallery's page; numbers are filled in when it is made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from clipseg_kfp.demo.things import THINGS
from tools.gallery_prompts import KINDS, LOGIC, PROMPTS, STAGES

_PAGE = """\
# Gallery

The demo model at work on drawn scenes that its training never saw: every kind of prompt, how a picture
becomes a prompt, logic, and tiles. Masks are painted as the suite's overlays paint them. `make gallery`
makes this page, all its pictures and all its numbers, in a minute or two, without a network.

Scenes were chosen by what they show, before a model looked at them: the first seeds that follow a rule
given below, from 5000 on. IoU below a mask is that of this mask. The tables sum up {scenes} scenes: for
each thing the first {each} by the rule of the first picture. All prompts are asked of all of them, pixels
are added up over scenes, and a mean is the mean over prompts. Where things are rarer than here, false
finds weigh more and IoU is lower, most of all for images. The threshold is 0.5 everywhere.

## Kinds of prompts

![Six things, each shown and found in a scene by five kinds of prompts, with the IoU of every mask](\
{folder}/kinds.jpg)

Each row asks for one thing in one scene: by a text; by a picture with a mask (the first column); by a mix
of the two; by logic, its color *and* its shape; by a stored embedding. The scene is the first one that
shows the thing and, to tell it from, another of its shape or its color.

| IoU | {things} | mean |
|{rules}
{kinds}

The prompt set ([prompts.yaml]({folder}/prompts.yaml), beside the pictures and vectors that it refers to):

```yaml
{prompts}```

- An **image** means "this shape in this color" to the demo model, which was trained on such pairs and on
  nothing else.
- In the **mix**, both count alike: this model's embeddings are {image_length:.1f} long for these pictures and
  {text_length:.1f} for these texts. Where lengths differ (`a circle` is {circle_length:.1f} long), weights
  make up for it.
- **Logic** asks for two things apart, such as `the red things` and `a circle`, and keeps what is both.
- The **stored** vectors are those of the texts, scaled to length 1 as most stores keep them, and back to
  about what they were by `norm`. (`norm: text` is for models that know common things; this one knows none,
  and its embeddings of their names are {common_length:.1f} long.)

## From a picture to a prompt

![Three support pictures as they are, cropped, blurred, darkened and padded, with the IoU of each](\
{folder}/support.jpg)

From left to right each step adds to the one before; the last is the default. Below each picture stands the
IoU that it has as a prompt, over all scenes of the tables. The support picture of a thing is the first one
from seed 6000 on where it is plain, not small and clear of all else.

| | `engineering` | mean IoU of six things |
| --- | --- | --- |
{stages}

## Logic

![Three scenes with the masks of red, ring, red and not ring, the same cleaned, star or circle](\
{folder}/logic.jpg)

Maps are combined before the threshold. The scenes are the first three with a red ring, something else that
is red, and a star or a circle. Where parts disagree along an outline, `and not` leaves a rim; the
next column is the same with [cleaning](prompts.md#from-a-map-to-a-mask).

| prompt | IoU |
| --- | --- |
{logic}

## Tiles

![A part of a large scene with the masks of six prompts: without tiles, and with them](\
{folder}/tiles.jpg)

A scene of {width} x {height} pixels with things of 24 to 40 pixels across. The model sees an image as
160 x 160 pixels, where these are 3 to 8 pixels across. With `views.tile_size={tile}` it sees {views} views of the
image and not one.

| {large} scenes, six prompts | mean IoU |
| --- | --- |
| no tiles | {iou_no_tiles:.3f} |
| tiles of {tile} pixels | {iou_tiles:.3f} |
"""


def write_page(
    page: Path,
    iou: Mapping[str, float],
    tiles: Mapping[str, float],
    *,
    scenes: int,
    each: int,
    large: int,
    size: tuple[int, int],
    tile: int,
    views: int,
    lengths: Mapping[str, float],
) -> dict[str, float]:
    """Writes the page.

    Args:
        page: Markdown file; pictures lie in a folder of its name without the ending.
        iou: by prompt.
        tiles: mean IoU, ``iou_no_tiles`` and ``iou_tiles``.
        scenes: number of scenes in ``iou``.
        each: number of scenes per thing.
        large: number of large scenes in ``tiles``.
        size: width and height of large scenes in pixels.
        tile: side of a tile in pixels.
        views: number of views of a large scene.
        lengths: mean length of the embeddings of each kind of prompt, of ``circle`` and of ``common`` things.

    Returns:
        The figures of the page by name: means for kinds of prompts and for stages, logic, tiles.
    """
    means = {kind: _mean(iou, kind) for kind in KINDS}
    stages = {stage: _mean(iou, stage) for stage in STAGES}
    text = _PAGE.format(
        folder=page.stem,
        scenes=scenes,
        each=each,
        things=" | ".join(thing.noun for thing in THINGS),
        rules=" --- |" * (len(THINGS) + 2),
        kinds="\n".join(
            f"| {kind} | {' | '.join(_cells(iou, kind))} | **{mean:.3f}** |" for kind, mean in means.items()
        ),
        prompts=PROMPTS,
        text_length=lengths["text"],
        image_length=lengths["image"],
        circle_length=lengths["circle"],
        common_length=lengths["common"],
        stages="\n".join(f"| {name} | `{_settings(name)}` | {mean:.3f} |" for name, mean in stages.items()),
        logic="\n".join(f"| `{name}` | {iou[name]:.3f} |" for name in LOGIC),
        large=large,
        width=size[0],
        height=size[1],
        tile=tile,
        views=views,
        **tiles,
    )
    page.write_text(text, "utf-8")
    named = {**means, **{f"support {stage}": mean for stage, mean in stages.items()}}
    named |= {name: iou[name] for name in LOGIC}
    return {f"iou_{'_'.join(name.replace('+', '').split())}": mean for name, mean in named.items()} | dict(
        tiles
    )


def _mean(iou: Mapping[str, float], kind: str) -> float:
    return float(np.mean([iou[f"{thing.noun} {kind}"] for thing in THINGS]))


def _cells(iou: Mapping[str, float], kind: str) -> list[str]:
    return [f"{iou[f'{thing.noun} {kind}']:.3f}" for thing in THINGS]


def _settings(stage: str) -> str:
    settings = STAGES[stage]
    if isinstance(settings, str):
        return settings
    return "{" + ", ".join(f"{name}: {str(value).lower()}" for name, value in settings.items()) + "}"
