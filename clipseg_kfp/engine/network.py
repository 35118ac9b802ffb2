"""The two halves of CLIPSeg as torch modules that hold no more than masks need.

``Encoder`` takes an image to the activations that the decoder reads, ``Decoder`` takes those and conditional
embeddings to logits. Both are rebuilt from the modules of transformers with the same weights; what changes is
what is left out (the text tower, the blocks above the deepest one that is read, the final norm and the
projection), what is joined (query, key and value in one multiplication; normalization of pixels in the patch
embedding), and where the line runs: whatever does not depend on the prompt is on the encoder's side.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from clipseg_kfp.engine.checkpoint import ModelFacts, unusable
from clipseg_kfp.engine.dimensions import Dimensions
from clipseg_kfp.errors import ModelError

if TYPE_CHECKING:
    from transformers import CLIPSegForImageSegmentation

#: quick_gelu(x) = x sigmoid(1.702 x), and silu(x) = x sigmoid(x): one fused operation instead of three.
_QUICK_GELU = 1.702


class _Linear(nn.Linear):
    """A linear layer around given weights, (outputs, inputs) and (outputs,)."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = weight.shape
        self.weight = nn.Parameter(weight.detach().contiguous(), requires_grad=False)
        self.bias = nn.Parameter(bias.detach().contiguous(), requires_grad=False)


class _Attention(nn.Module):
    """Self-attention over (N, tokens, width), query, key and value computed at once."""

    def __init__(self, attention: Any, tokens: int) -> None:
        super().__init__()
        self.tokens, self.heads, self.width = tokens, attention.num_heads, attention.embed_dim
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        self.qkv = _Linear(torch.cat([p.weight for p in parts]), torch.cat([p.bias for p in parts]))
        self.out = attention.out_proj

    def forward(self, x: Tensor) -> Tensor:
        joined = self.qkv(x).view(-1, self.tokens, 3, self.heads, self.width // self.heads)
        query, key, value = joined.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        y: Tensor = self.out(mixed.transpose(1, 2).reshape(-1, self.tokens, self.width))
        return y


class _EncoderBlock(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, layer: Any, tokens: int, activation: str) -> None:
        super().__init__()
        self.norm1, self.norm2 = layer.layer_norm1, layer.layer_norm2
        self.attention = _Attention(layer.self_attn, tokens)
        mlp = layer.mlp
        if activation == "quick_gelu":
            self.fc1: nn.Module = _Linear(mlp.fc1.weight * _QUICK_GELU, mlp.fc1.bias * _QUICK_GELU)
            self.fc2: nn.Module = _Linear(mlp.fc2.weight / _QUICK_GELU, mlp.fc2.bias)
            self.activation: nn.Module = nn.SiLU(inplace=True)
        else:
            self.fc1, self.fc2, self.activation = mlp.fc1, mlp.fc2, mlp.activation_fn

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        y: Tensor = x + self.fc2(self.activation(self.fc1(self.norm2(x))))
        return y


class _DecoderBlock(nn.Module):
    """A post-norm transformer block."""

    def __init__(self, layer: Any, tokens: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = layer.layer_norm1, layer.layer_norm2
        self.attention = _Attention(layer.self_attn, tokens)
        self.fc1, self.fc2 = layer.mlp.fc1, layer.mlp.fc2

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.attention(x))
        y: Tensor = self.norm2(x + self.fc2(functional.relu(self.fc1(x), inplace=True)))
        return y


class _Enlarge(_Linear):
    """A transposed convolution whose stride is its kernel, as a linear layer: its outputs do not overlap.

    From (..., inputs) to (..., side * side * outputs): rows of the kernel, its columns, channels.
    """

    def __init__(self, layer: nn.ConvTranspose2d) -> None:
        if layer.kernel_size != layer.stride or layer.padding != (0, 0):
            raise _unsupported(
                "use_complex_transposed_convolution",
                "transposed convolutions overlap, which CLIPSeg's never do",
            )
        inputs, outputs, side, _ = layer.weight.shape
        assert layer.bias is not None  # as transformers builds it
        weight = layer.weight.detach().permute(2, 3, 1, 0).reshape(-1, inputs)
        super().__init__(weight, layer.bias.detach().repeat(side**2))
        self.side, self.outputs = side, outputs


class _Upsample(nn.Module):
    """Tokens (N, grid * grid, reduced) to logits (N, S, S): the simple or the complex transposed convolution.

    Channels stay last, as the tokens have them, and pixels find their places once, at the end: what
    convolutions would do with a copy before and after each of them is a matrix product here.
    """

    def __init__(self, layers: nn.Module, size: Dimensions) -> None:
        super().__init__()
        self.side, self.reduced = size.image_size // size.patch, size.reduced
        self.mix: nn.Module | None = None
        if isinstance(layers, nn.ConvTranspose2d):
            self.enlarge = nn.ModuleList([_Enlarge(layers)])
            return
        first, _, *others = cast("nn.Sequential", layers)  # convolution, ReLU, transposed, ReLU, transposed
        self.mix = first
        self.enlarge = nn.ModuleList(
            _Enlarge(layer) for layer in others if isinstance(layer, nn.ConvTranspose2d)
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.mix is not None:
            grid = x.reshape(-1, self.side, self.side, self.reduced).permute(0, 3, 1, 2)
            x = functional.relu(self.mix(grid)).permute(0, 2, 3, 1)
        x = x.reshape(-1, self.side, self.side, self.reduced)
        sides: list[int] = []
        for i, layer in enumerate(self.enlarge):
            x = layer(functional.relu(x) if i else x)
            sides.append(cast("int", layer.side))
            inside = [side for side in sides for _ in ("row", "column")]
            x = x.reshape([-1, self.side, self.side, *inside, cast("int", layer.outputs)])
        # (N, row, column, row in it, column in it, ..., 1): rows first, then columns, coarse to fine
        axes = list(range(1, x.ndim - 1))
        x = x.permute(0, *axes[::2], *axes[1::2], x.ndim - 1)
        whole = self.side * math.prod(sides)
        return x.reshape(-1, whole, whole)


class Encoder(nn.Module):
    """Images to what the decoder reads: as many (B, tokens, reduced) as it has layers from FiLM on.

    The first one is the decoder's state right before FiLM (the only layer where the prompt enters); the
    others are the reduced activations of the layers after it.
    """

    def __init__(self, model: CLIPSegForImageSegmentation, facts: ModelFacts, size: Dimensions) -> None:
        super().__init__()
        config: Any = model.config
        vision: Any = model.clip.vision_model
        decoder: Any = model.decoder
        extracted = [int(i) for i in config.extract_layers]
        self.blocks = nn.ModuleList(
            _EncoderBlock(layer, size.tokens, config.vision_config.hidden_act)
            for layer in vision.encoder.layers[: max(extracted) + 1]
        )
        # transformers hands the decoder the activations in the order of extract_layers, reversed
        self.order = extracted[::-1]
        self.conditional = int(config.conditional_layer)
        self.reduces = decoder.reduces
        self.before = nn.ModuleList(
            _DecoderBlock(layer, size.tokens) for layer in decoder.layers[: self.conditional]
        )
        self.norm = vision.pre_layrnorm
        self.patch, self.side = size.patch, size.image_size // size.patch
        self._fold_pixels(vision.embeddings, facts, size)

    def _fold_pixels(self, embeddings: Any, facts: ModelFacts, size: Dimensions) -> None:
        """Folds (x / 255 - mean) / std into the patch embedding, and all that is added into one table.

        A convolution whose stride is its kernel is a linear layer over the patches' pixels.
        """
        weight = embeddings.patch_embedding.weight.detach()  # (hidden, 3, patch, patch); has no bias
        mean, std = torch.tensor(facts.mean), torch.tensor(facts.std)
        shift = (weight * (-mean / std).view(1, 3, 1, 1)).sum((1, 2, 3))
        kernel = (weight * (1 / (255 * std)).view(1, 3, 1, 1)).permute(0, 2, 3, 1).flatten(1)
        self.kernel = nn.Parameter(kernel.contiguous(), requires_grad=False)  # (hidden, patch * patch * 3)
        shape = torch.empty(1, size.tokens, size.hidden)  # only its shape is looked at
        side = size.image_size
        position = embeddings.interpolate_pos_encoding(shape, side, side).detach()
        self.table = nn.Parameter(position[:, 1:] + shift, requires_grad=False)
        self.start = nn.Parameter(position[:, :1] + embeddings.class_embedding.detach(), requires_grad=False)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Takes uint8 (B, S, S, 3)."""
        cut = pixels.reshape(-1, self.side, self.patch, self.side, self.patch, 3).permute(0, 1, 3, 2, 4, 5)
        values = cut.reshape(-1, self.side**2, self.kernel.shape[1]).to(self.kernel.dtype)
        patches = functional.linear(values, self.kernel)  # 0 to 255 are exact in bfloat16 too
        hidden = torch.cat([self.start.expand(patches.shape[0], -1, -1), patches + self.table], dim=1)
        hidden = self.norm(hidden)
        extracted: dict[int, Tensor] = {}
        for i, block in enumerate(self.blocks):
            hidden = block(hidden)
            if i in self.order:
                extracted[i] = hidden
        reduced = [reduce(extracted[i]) for reduce, i in zip(self.reduces, self.order, strict=True)]
        state = reduced[0]
        for i, layer in enumerate(self.before):
            state = layer(state) + reduced[i + 1]
        return (state, *reduced[self.conditional + 1 :])


class Decoder(nn.Module):
    """Every image under every prompt, from FiLM on."""

    def __init__(self, model: CLIPSegForImageSegmentation, size: Dimensions) -> None:
        super().__init__()
        decoder: Any = model.decoder
        self.size = size
        self.film_mul, self.film_add = decoder.film_mul, decoder.film_add
        self.layers = nn.ModuleList(
            _DecoderBlock(layer, size.tokens) for layer in decoder.layers[decoder.conditional_layer :]
        )
        self.upsample = _Upsample(decoder.transposed_convolution, size)

    def forward(self, embeddings: Tensor, *activations: Tensor) -> tuple[Tensor, Tensor]:
        """Decodes.

        Args:
            embeddings: (P, projection_dim).
            activations: what ``Encoder`` returned for B images.

        Returns:
            Logits, float32 (B * P, S, S), prompts changing fastest; and ``round(255 * sigmoid(logits))`` as
            uint8.
        """
        size = self.size
        shape = (-1, size.tokens, size.reduced)
        gain, bias = self.film_mul(embeddings)[:, None], self.film_add(embeddings)[:, None]  # (P, 1, R)
        state, *others = activations
        x = (gain * state[:, None] + bias).reshape(shape)
        for layer, activation in zip(self.layers, [None, *others], strict=True):
            if activation is not None:  # (B, 1, tokens, R), added under every prompt
                x = (x.reshape(activation.shape[0], -1, *shape[1:]) + activation[:, None]).reshape(shape)
            x = layer(x)
        logits = self.upsample(x[:, 1:]).float()  # without the class token
        return logits, (logits.sigmoid() * 255).round().to(torch.uint8)


def split(model: CLIPSegForImageSegmentation, facts: ModelFacts) -> tuple[Encoder, Decoder, Dimensions]:
    """Takes a loaded model apart; it cannot be used as such afterwards.

    Args:
        model: in float32.
        facts: image size, mean and deviation of the checkpoint's processor.

    Raises:
        ModelError: a configuration that the decoder cannot work with.
    """
    config: Any = model.config
    vision: Any = model.clip.vision_model
    layers = [int(i) for i in config.extract_layers]
    if not layers or min(layers) < 0 or max(layers) >= len(vision.encoder.layers):
        raise _unsupported("extract_layers", f"{layers} names blocks that the vision tower does not have")
    if not 0 <= config.conditional_layer < len(layers):
        raise _unsupported(
            "conditional_layer",
            f"{config.conditional_layer} lies outside the decoder, so that prompts would have no effect",
        )
    size = Dimensions.of(config, facts.image_size)
    with torch.no_grad():
        halves = Encoder(model, facts, size).eval(), Decoder(model, size).eval()
    for half in halves:
        half.requires_grad_(False)
        for parameter in half.parameters():
            # Loaded weights lie in a mapping of the whole file: with one in use, all stay in memory.
            parameter.data = parameter.data.clone()
    return *halves, size


def _unsupported(field: str, problem: str) -> ModelError:
    return unusable("checkpoint_config", f"config.json: {field}", f"{field} of config.json: {problem}.")
