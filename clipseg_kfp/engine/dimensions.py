"""Sizes of a network, and the memory that they cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Dimensions:
    """Sizes that decide how much memory a batch takes.

    Attributes:
        image_size: side of the input and of the logits, pixels.
        tokens: patches of an image, and the class token.
        hidden: width of the encoder.
        intermediate: width inside the encoder's MLPs.
        heads: of the encoder's attention.
        reduced: width of the decoder.
        decoder_intermediate: width inside the decoder's MLPs.
        decoder_heads: of the decoder's attention.
        activations: how many activations the decoder reads.
        patch: side of a patch, pixels.
    """

    image_size: int
    tokens: int
    hidden: int
    intermediate: int
    heads: int
    reduced: int
    decoder_intermediate: int
    decoder_heads: int
    activations: int
    patch: int

    @classmethod
    def of(cls, config: Any, image_size: int) -> Dimensions:
        """Reads them from a ``CLIPSegConfig``."""
        vision = config.vision_config
        return cls(
            image_size=image_size,
            tokens=(image_size // vision.patch_size) ** 2 + 1,
            hidden=vision.hidden_size,
            intermediate=vision.intermediate_size,
            heads=vision.num_attention_heads,
            reduced=config.reduce_dim,
            decoder_intermediate=config.decoder_intermediate_size,
            decoder_heads=config.decoder_num_attention_heads,
            activations=len(config.extract_layers) - config.conditional_layer,
            patch=vision.patch_size,
        )

    def to_json(self) -> dict[str, int]:
        """A plain dictionary for a JSON file."""
        return asdict(self)

    @property
    def encoding_floats(self) -> int:
        """Roughly the numbers that one image holds in the encoder at its peak: QKV, MLP and attention."""
        return (
            self.tokens * (7 * self.hidden + self.intermediate)
            + self.heads * self.tokens**2
            + 4 * self.image_size**2
        )

    @property
    def decoding_floats(self) -> int:
        """The same for one (image, prompt) pair in the decoder, transposed convolutions included."""
        return (
            self.tokens * (7 * self.reduced + self.decoder_intermediate)
            + self.decoder_heads * self.tokens**2
            + self.image_size**2 * (2 + self.reduced // 32)
        )
