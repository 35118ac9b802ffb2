"""Trains the demo model: a small CLIPSeg of the real class, on drawn scenes, from scratch.

CLIPSeg starts from a pretrained CLIP and trains only its decoder. There is no pretrained CLIP for drawn shapes, so
everything is trained together, with two helpers in place of pretraining that are dropped afterwards: a head that
names shape, color and texture of each patch, and a loss term that pulls the embedding of a thing's picture towards
the embedding of its name, so that one-shot prompts work.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import (
    CLIPSegConfig,
    CLIPSegForImageSegmentation,
    CLIPSegProcessor,
    CLIPTokenizer,
    ViTImageProcessorPil,
)

from clipseg_kfp.demo.scenes import COLORS, SHAPES, TEXTURES, Query, phrase
from tools.training_batches import IMAGE_SIZE, MEAN, STD, Batch, Sampler, build_pool

PATCH = 16
LOGGED = ("step", "minutes", "bce", "dice", "patch", "align", "iou_text", "iou_image")


def build_tokenizer() -> CLIPTokenizer:
    """Learns a byte-pair vocabulary on the words of prompts (any other text can still be encoded)."""
    rng = np.random.default_rng(0)
    corpus = [
        phrase(Query(shape, color, texture), rng)
        for shape in (None, *SHAPES)
        for color in (None, *COLORS)
        for texture in (None, *TEXTURES)
    ]
    corpus += ["a an the of photo image picture drawing and or not with in background object objects"] * 20
    blank = CLIPTokenizer()
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = blank.backend_tokenizer.normalizer
    bpe.pre_tokenizer = blank.backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(vocab_size=400, end_of_word_suffix="</w>", show_progress=False)
    bpe.train_from_iterator(corpus, trainer)
    merges: Any = [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    # CLIP's layout: bytes, bytes that end a word, merges, then the two special tokens at the end. The end
    # token must not be id 2, which transformers reads as "pool at the largest id" (an old checkpoint rule).
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{char}</w>" for char in alphabet), *("".join(pair) for pair in merges)]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocab[special] = len(vocab)
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=24)


def build_config(tokenizer: CLIPTokenizer) -> CLIPSegConfig:
    """The demo architecture: about 1.6 M parameters; text prompts need four of its five vision blocks."""
    return CLIPSegConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 96,
            "intermediate_size": 384,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 24,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 5,
            "num_attention_heads": 4,
            "image_size": IMAGE_SIZE,
            "patch_size": PATCH,
        },
        projection_dim=96,
        extract_layers=[1, 2, 3],
        reduce_dim=64,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=128,
        use_complex_transposed_convolution=True,
    )


def build_processor(tokenizer: CLIPTokenizer) -> CLIPSegProcessor:
    """The processor that ships with the checkpoint: bilinear stretch, ImageNet mean and deviation."""
    image_processor = ViTImageProcessorPil(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, image_mean=list(MEAN), image_std=list(STD)
    )
    processor: Any = CLIPSegProcessor
    built: CLIPSegProcessor = processor(image_processor=image_processor, tokenizer=tokenizer)
    return built


PATCH_WEIGHTS = (0.6, 0.15, 0.25)  # shape, color, texture


class PatchHead(nn.Module):
    """The auxiliary head that names shape, color and texture of each patch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sizes = (len(SHAPES) + 1, len(COLORS) + 1, len(TEXTURES) + 1)
        self.linear = nn.Linear(width, sum(self.sizes))

    def forward(self, tokens: Tensor, labels: Tensor, attributes: Tensor) -> Tensor:
        """Mean cross entropy of (B, N, width) patch tokens against the patch's mix of classes."""
        loss = tokens.new_zeros(())
        coarse = labels[:, ::2, ::2].long()  # every second pixel suffices for a patch's mix
        for part, (logits, size) in enumerate(
            zip(self.linear(tokens).split(self.sizes, -1), self.sizes, strict=True)
        ):
            classes = attributes[:, :, part].gather(1, coarse.flatten(1))
            onehot = F.one_hot(classes.view_as(coarse), size).permute(0, 3, 1, 2).float()
            mix = F.avg_pool2d(onehot, PATCH // 2).flatten(2).transpose(1, 2)
            loss = loss - PATCH_WEIGHTS[part] * (mix * logits.log_softmax(-1)).sum(-1).mean()
        return loss


def encode(model: CLIPSegForImageSegmentation, pixels: Tensor, blocks: int) -> list[Tensor]:
    """Hidden states of the first ``blocks`` vision blocks; by sub-modules, because forward stops gradients."""
    vision = model.clip.vision_model
    hidden = vision.pre_layrnorm(vision.embeddings(pixels))
    states = []
    for layer in vision.encoder.layers[:blocks]:
        hidden = layer(hidden, None)
        states.append(hidden)
    return states


def step_loss(
    model: CLIPSegForImageSegmentation, head: PatchHead, tokenizer: CLIPTokenizer, batch: Batch
) -> tuple[Tensor, dict[str, float]]:
    """BCE plus half a Dice loss over all prompts, and the two helpers."""
    scenes, prompts = batch.targets.shape[:2]
    states = encode(model, batch.pixels, max(model.config.extract_layers) + 1)
    activations = [states[i][:scenes].repeat_interleave(prompts, 0) for i in model.config.extract_layers]
    tokens = tokenizer(batch.texts + batch.support_names, padding=True, return_tensors="pt")
    text = model.clip.get_text_features(**tokens).pooler_output
    image = model.clip.get_image_features(batch.supports).pooler_output
    prompted, names = text[: len(batch.texts)], text[len(batch.texts) :]
    conditional = torch.cat([prompted.view(scenes, prompts - 1, -1), image[:, None]], 1).flatten(0, 1)
    logits = model.decoder(tuple(activations), conditional).logits.view_as(batch.targets)
    bce = F.binary_cross_entropy_with_logits(logits, batch.targets)
    probability = logits.sigmoid()
    overlap = (probability * batch.targets).sum((2, 3))
    total = probability.sum((2, 3)) + batch.targets.sum((2, 3))
    dice = (1 - (2 * overlap + 50) / (total + 50)).mean()
    patches = head(states[max(model.config.extract_layers)][:, 1:], batch.labels, batch.attributes)
    align = F.mse_loss(image, names)
    with torch.no_grad():
        mask, truth = logits > 0, batch.targets > 0
        inter, union = (mask & truth).sum((0, 2, 3)).float(), (mask | truth).sum((0, 2, 3)).float()
    figures = {
        "bce": bce.item(), "dice": dice.item(), "patch": patches.item(), "align": align.item(),
        "iou_text": (inter[:-1].sum() / union[:-1].sum()).item(),
        "iou_image": (inter[-1] / union[-1]).item(),
    }  # fmt: skip
    return bce + 0.5 * dice + patches + 0.1 * align, figures


def optimizers(model: nn.Module, head: nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside blocks, AdamW for the rest: embeddings, norms, convolutions, heads."""
    matrices: list[nn.Parameter] = []
    others = list(head.parameters())
    for name, parameter in model.named_parameters():
        inside = ".layers." in name and parameter.ndim == 2
        (matrices if inside else others).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=lr * 4, weight_decay=0.02, adjust_lr_fn="original"),
        torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def train(options: argparse.Namespace) -> None:
    """Trains, logs, and writes the checkpoint; ``--out`` is replaced only at the end.

    Intermediate checkpoints lie beside it in ``<out>.training``; ``--init`` continues from one.
    """
    torch.manual_seed(0)
    if options.init:
        tokenizer = CLIPTokenizer.from_pretrained(options.init)
        model = CLIPSegForImageSegmentation.from_pretrained(options.init, dtype="float32")
    else:
        tokenizer = build_tokenizer()
        model = CLIPSegForImageSegmentation(build_config(tokenizer))
    # transformers' own initialization of the decoder stalls (deviation near 1)
    fresh: Iterable[Any] = () if options.init else model.decoder.modules()
    for module in fresh:
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    vision: Any = model.config.vision_config
    head = PatchHead(vision.hidden_size)
    model.train()
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, vocabulary {len(tokenizer)}")
    pool = build_pool(options.pool, torch.get_num_threads())
    sampler = Sampler(pool, options.scenes, options.prompts, options.extra)
    batches = iter(DataLoader(sampler, batch_size=None, num_workers=1))
    average = {k: v.detach().clone() for k, v in model.state_dict().items()}
    opts = optimizers(model, head, options.lr)
    peaks = [group["lr"] for opt in opts for group in opt.param_groups]
    working = options.out.with_name(options.out.name + ".training")
    working.mkdir(parents=True, exist_ok=True)
    start, recent = time.time(), []
    with (working / "training_log.csv").open("w") as log:
        print(",".join(LOGGED), file=log)
        for step in range(1, options.steps + 1):
            done = step / options.steps
            scale = min(1, step / 200) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
            for group, peak in zip((g for o in opts for g in o.param_groups), peaks, strict=True):
                group["lr"] = peak * scale
            loss, figures = step_loss(model, head, tokenizer, next(batches))
            for opt in opts:
                opt.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for opt in opts:
                opt.step()
            blend(average, model, 1 - min(0.998, step / (step + 20)))
            recent.append(figures)
            if step % 100 == 0:
                means = [float(np.mean([f[c] for f in recent])) for c in LOGGED[2:]]
                recent = []
                line = [str(step), f"{(time.time() - start) / 60:.2f}", *(f"{m:.4f}" for m in means)]
                print(",".join(line), file=log, flush=True)
                print(" ".join(f"{c}={v}" for c, v in zip(LOGGED, line, strict=True)), flush=True)
            if step % 1000 == 0:
                save(model, average, tokenizer, working)
    save(model, average, tokenizer, working)
    shutil.copytree(working, options.out, dirs_exist_ok=True)


def blend(average: dict[str, Tensor], model: nn.Module, share: float) -> None:
    """Moves the running average of the weights, which is saved, by a share towards the model's."""
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                average[key].lerp_(value, share)


def save(
    model: CLIPSegForImageSegmentation, weights: dict[str, Tensor], tokenizer: CLIPTokenizer, out: Path
) -> None:
    """Writes a checkpoint that ``from_pretrained`` reads: safetensors, config, tokenizer, processor."""
    model.save_pretrained(out, state_dict=dict(weights))  # it empties the dictionary that it is given
    build_processor(tokenizer).save_pretrained(out)


def main() -> None:
    """Command line of ``make demo-model``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("examples/demo-model"))
    parser.add_argument("--init", type=Path, help="checkpoint of an interrupted training to continue from")
    parser.add_argument("--steps", type=int, default=9_000)
    parser.add_argument("--pool", type=int, default=20_000)
    parser.add_argument("--scenes", type=int, default=12)
    parser.add_argument("--extra", type=int, default=28, help="scenes for the patch head only")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--lr", type=float, default=1.2e-3)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
