"""Converts a checkpoint for OpenVINO; a program of its own: ``python -m clipseg_kfp.engine.conversion``.

It holds torch, the weights and OpenVINO's copy of them, and gives all that back by ending.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

from clipseg_kfp.errors import ClipsegKfpError

ENCODER, DECODER, SIZE, SAMPLE = "encoder.xml", "decoder.xml", "size.json", "sample.npz"


def convert(folder: Path, target: Path) -> None:
    """Writes both halves of a model, its sizes, and what torch makes of some input.

    Args:
        folder: of the checkpoint.
        target: folder to make.

    Raises:
        ModelError: the checkpoint cannot be used.
    """
    import numpy as np
    import torch

    from clipseg_kfp.engine.checkpoint import load_model, read_facts
    from clipseg_kfp.engine.network import split
    from clipseg_kfp.engine.openvino_import import ov

    facts = read_facts(folder)
    encoder, decoder, size = split(load_model(folder), facts)
    target.mkdir()
    generator = torch.Generator().manual_seed(0)
    side = size.image_size
    # Two images and three prompts, so that no size is taken for a constant.
    pixels = torch.randint(0, 256, (2, side, side, 3), dtype=torch.uint8, generator=generator)
    embeddings = torch.randn(3, facts.projection_dim, generator=generator)
    reduced = [-1, size.tokens, size.reduced]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing, about shapes that are constant on purpose
        activations = encoder(pixels)
        logits, _ = decoder(embeddings, *activations)
        converted = ov.convert_model(encoder, example_input=pixels, input=[[-1, side, side, 3]])
        ov.save_model(converted, target / ENCODER, compress_to_fp16=False)
        converted = ov.convert_model(
            decoder,
            example_input=(embeddings, *activations),
            input=[[-1, facts.projection_dim], *[reduced] * size.activations],
        )
        ov.save_model(converted, target / DECODER, compress_to_fp16=False)
    (target / SIZE).write_text(json.dumps(size.to_json()), "utf-8")
    expected = logits.reshape(2, 3, side, side).numpy()
    np.savez(target / SAMPLE, pixels=pixels.numpy(), embeddings=embeddings.numpy(), logits=expected)


if __name__ == "__main__":
    try:
        convert(Path(sys.argv[1]), Path(sys.argv[2]))
    except ClipsegKfpError as error:
        print(json.dumps(error.record()))
        sys.exit(1)
