"""CLIPSeg inference that encodes each image once, however many prompts there are.

The documented use of transformers repeats the whole vision tower for every prompt. The decoder reads a few
intermediate activations only, and those do not depend on the prompt: ``encode`` computes them once with the
blocks that they need, ``decode`` turns them into logits for all prompts.

    core       Engine: checks, batches, chunks, memory; knows nothing of torch or OpenVINO
    backends   what a backend is, and which one runs where
    network    the two halves of the model as torch modules, without what masks do not need
    torch_backend, openvino_backend    the halves at work; int8 makes a smaller encoder for the latter

Importing this package imports neither torch nor OpenVINO.
"""

from clipseg_kfp.engine.backends import check_choices
from clipseg_kfp.engine.core import Activations, Engine, Pending

__all__ = ["Activations", "Engine", "Pending", "check_choices"]
