"""Damaged and hostile image files, each made from a seed: what a bucket may hold when nobody means well."""

from __future__ import annotations

import functools
import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageCms

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
KINDS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")


def picture(seed: int, width: int = 96, height: int = 64) -> Image.Image:
    """Coarse colors with a gradient, so that every coder has something to do."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def sound(seed: int, kind: str) -> bytes:
    """A file of one of the variants of a format."""
    image, choose = picture(seed), random.Random(seed).choice
    exif = Image.Exif()
    exif[274] = choose([1, 3, 6])
    metadata = {"exif": exif, "icc_profile": SRGB}
    if kind == "JPEG":
        mode = choose(["RGB", "L", "CMYK"])
        return encode(image.convert(mode), kind, progressive=choose([True, False]), **metadata)
    if kind == "PNG":
        mode = choose(["RGB", "RGBA", "P", "L", "1", "I;16"])
        wide = Image.fromarray(np.arange(6144, dtype=np.uint16).reshape(64, 96))
        return encode(wide if mode == "I;16" else image.convert(mode), kind, **metadata)
    if kind == "WEBP":
        more = [picture(seed + 1)] if choose([True, False]) else []
        return encode(image, kind, lossless=choose([True, False]), save_all=bool(more), append_images=more)
    if kind == "TIFF":
        compression = choose(["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4"])
        mode = "1" if compression == "group4" else "RGB"
        return encode(image.convert(mode), kind, compression=compression)
    if kind == "BMP":
        return encode(image.convert(choose(["RGB", "L", "P", "1", "RGBA"])), kind)
    return encode(image, kind, save_all=True, append_images=[picture(seed + 1), picture(seed + 2)])


def bit_flips(seed: int) -> bytes:
    rng = random.Random(seed)
    data = bytearray(sound(seed, KINDS[seed % 6]))
    reach = rng.choice([64, 512, len(data)])
    for _ in range(rng.randint(1, 12)):
        data[rng.randrange(min(reach, len(data)))] ^= 1 << rng.randrange(8)
    return bytes(data)


def truncation(seed: int) -> bytes:
    """Cut within the first bytes, anywhere, or just before the end; at times padded with zeros."""
    rng = random.Random(seed)
    data = sound(seed, KINDS[seed % 6])
    kept = rng.choice([rng.randrange(1, 40), rng.randrange(len(data)), len(data) - rng.randrange(1, 12)])
    return data[:kept] + bytes(rng.choice([0, 0, len(data) - kept]))


def spliced(seed: int) -> bytes:
    """A block of the file is another one's, or comes twice, or is random."""
    rng = random.Random(seed)
    data, other = sound(seed, KINDS[seed % 6]), sound(seed + 1, KINDS[rng.randrange(6)])
    at, size = rng.randrange(len(data)), rng.randrange(1, 400)
    block = rng.choice([other[:size], data[at : at + size] * 2, rng.randbytes(size)])
    return data[:at] + block + data[at + rng.choice([0, size]) :]


def lying_header(seed: int) -> bytes:
    """Width and height are replaced where the format keeps them."""
    rng, kind = random.Random(seed), KINDS[seed % 6]
    data = bytearray(encode(picture(seed), kind))
    side = rng.choice([0, 1, 65, 97, 4000, 30000, 65535])
    if kind == "JPEG":
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", side, rng.choice([64, side]))
    elif kind == "PNG":
        data[16:24] = struct.pack(">II", rng.choice([side, 2**31 - 1]), rng.choice([64, side]))
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif kind == "WEBP":
        data[26:30] = struct.pack("<HH", min(side, 16383), min(side, 16383))
    elif kind == "TIFF":
        at = data.index(struct.pack("<HHI", 256, 3, 1)) + 8 if struct.pack("<HHI", 256, 3, 1) in data else 8
        data[at : at + 2] = struct.pack("<H", side)
    elif kind == "BMP":
        data[18:26] = struct.pack("<ii", side, rng.choice([-side, side]))
    else:
        data[6:10] = struct.pack("<HH", side, side)
    return bytes(data)


def png(width: int, height: int, body: bytes, *chunks: tuple[bytes, bytes], color: int = 2) -> bytes:
    """A PNG of given chunks; ``body`` is the compressed pixels."""
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 0))
    parts = [
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in (header, *chunks, (b"IDAT", body), (b"IEND", b""))
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@functools.cache
def _zeros() -> bytes:
    return zlib.compress(bytes(60_000_000))


def png_bomb(seed: int) -> bytes:
    """Pixels that unpack to what the header says, far more, or text and profiles of many megabytes."""
    zeros = _zeros()
    small = zlib.compress((b"\0" + bytes(3 * 32)) * 32)
    return [
        lambda: png(60_000, 60_000, zeros),
        lambda: png(32, 32, zeros),
        lambda: png(6_000, 6_000, zlib.compress(bytes(6000 * 18_001), 9)),
        lambda: png(32, 32, small, (b"iCCP", b"x\0\0" + zeros)),
        lambda: png(32, 32, small, *[(b"zTXt", b"k\0\0" + zeros)] * 20),
        lambda: png(32, 32, small, *[(b"iTXt", b"k\0\1\0\0\0" + zeros)] * 20),
        lambda: png(32, 32, small, (b"PLTE", b"\0" * 769), color=3),
        lambda: png(32, 32, b"".join([small] * 1000)),
    ][seed % 8]()


def gif_bomb(seed: int) -> bytes:
    """A canvas of up to 65,535 pixels a side, and up to thousands of frames."""
    side = [65535, 6000, 96][seed % 3]
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, min(side, 96), 64, 0x80) + bytes(6) + b"\x02\x02\x4c\x01\0"
    return b"GIF89a" + struct.pack("<HH", side, side) + b"\x80\0\0" + bytes(6) + frame * 4000 + b";"


def tiff(entries: list[tuple[int, int, int, int]], following: int = 0, tail: bytes = bytes(400)) -> bytes:
    """A TIFF of one directory: tag, type, count, value."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + struct.pack("<I", following) + tail


def hostile_tiff(seed: int) -> bytes:
    """Strips that lie outside, are huge or overlap; directories in a loop; counts that claim gigabytes."""
    rng = random.Random(seed)
    side = rng.choice([16, 2000, 60_000])
    tags = {256: (4, 1, side), 257: (4, 1, side), 258: (3, 1, 8), 259: (3, 1, rng.choice([1, 5, 7, 8, 32773, 50001])),
            262: (3, 1, 1), 273: (4, 1, rng.choice([8, 200, 2**31])), 277: (3, 1, rng.choice([1, 3, 200])),
            278: (4, 1, rng.choice([0, 1, side, 2**32 - 1])), 279: (4, 1, rng.choice([0, 100, 2**32 - 1]))}  # fmt: skip
    victim = rng.choice(list(tags))
    kind, count, value = tags[victim]
    tags[victim] = rng.choice(
        [(kind, 2**31 - 1, 8), (kind, 0, value), (rng.choice([2, 5, 12, 13, 99]), count, 8)]
    )
    tags[rng.choice([34675, 34665, 700, 339, 322])] = (rng.choice([1, 4, 7]), rng.choice([1, 2**30]), 8)
    return tiff([(tag, *tags[tag]) for tag in sorted(tags)], following=rng.choice([0, 8, 8, 2**31]))


def hostile_bmp(seed: int) -> bytes:
    """Run lengths that leave the picture, or palettes and offsets that do."""
    rng = random.Random(seed)
    width, height = rng.choice([(64, 64), (30_000, 30_000), (7000, 7000), (64, -64)])
    bits, compression = rng.choice([(8, 1), (4, 2), (24, 0), (16, 3), (1, 0), (32, 3)])
    body = rng.choice([b"\xff\x00" * 3000, b"\0\2\xff\xff" * 800, b"\0\xff" + bytes(5), rng.randbytes(2000)])
    offset, colors = rng.choice([54, 1078, 2**31]), rng.choice([0, 256, 2**31])
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 0, 0, colors, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(body), 0, 0, offset) + header + bytes(1024) + body


def hostile_webp(seed: int) -> bytes:
    """Animations whose canvas is huge, or whose frames lie outside; chunks that claim too much."""
    rng = random.Random(seed)
    frames = [picture(seed + i, 40, 30) for i in range(rng.choice([1, 20]))]
    data = bytearray(encode(frames[0], "WEBP", save_all=True, append_images=frames[1:]))
    at = data.find(b"VP8X")
    if at > 0:
        side = rng.choice([16_382, 6000, 8])
        data[at + 12 : at + 18] = side.to_bytes(3, "little") * 2
    if rng.random() < 0.5:
        data[rng.choice([4, 16])] = 255
    return bytes(data)


def many_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG that repeats its last scan: a few bytes each, a pass over all blocks each."""
    data = encode(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + data[-2:]


def hostile_jpeg(seed: int) -> bytes:
    """Thousands of scans, tables that claim too much, restart markers everywhere, a comment without end."""
    data = encode(picture(seed), "JPEG", progressive=True)
    return [
        lambda: many_scans(512, 1000),
        lambda: data.replace(b"\xff\xc4\x00", b"\xff\xc4\xff"),
        lambda: data[:2] + b"\xff\xdd\0\4\0\1" + data[2:-2] + b"\xff\xd0\xff\xd7" * 5000 + data[-2:],
        lambda: data[:2] + b"\xff\xfe\xff\xff" + data[2:],
        lambda: data[:2] + (b"\xff\xe2\xff\xff" + b"ICC_PROFILE\0\1\xff" + bytes(65519)) * 40 + data[2:],
    ][seed % 5]()


def hostile_profile(seed: int) -> bytes:
    """Color profiles with flipped bytes, with tags that overlap or lie outside, or with huge counts."""
    rng, profile = random.Random(seed), bytearray(SRGB)
    for _ in range(rng.choice([1, 8, 60])):
        profile[rng.randrange(128, len(profile))] = rng.choice([0, 255, rng.randrange(256)])
    if rng.random() < 0.5:
        profile[128:132] = struct.pack(">I", rng.choice([0, 99, 2**32 - 1]))
    mode, kind = rng.choice([("RGB", "JPEG"), ("L", "PNG"), ("RGB", "PNG"), ("RGB", "TIFF")])
    return encode(picture(seed).convert(mode), kind, icc_profile=bytes(profile))


def hostile_exif(seed: int) -> bytes:
    """Directories that point to themselves, and counts that claim gigabytes."""
    rng = random.Random(seed)
    count = rng.choice([1, 400, 65535])
    tags = [0x8769, 0x8825, 0x0112, 0xA005, 0x927C, 0x010F]
    entries = [(rng.choice(tags), rng.randrange(14), rng.choice([1, 2**31, 2**32 - 1]), 8) for _ in range(4)]
    exif = b"Exif\0\0" + tiff(entries, following=8)[:14000]
    exif = exif[:14] + struct.pack("<H", count) + exif[16:]
    kind = rng.choice(["JPEG", "PNG", "WEBP"])
    return encode(picture(seed), kind, exif=exif)


def polyglot(seed: int) -> bytes:
    """Another format behind or before an image's bytes."""
    rng = random.Random(seed)
    first, second = sound(seed, KINDS[seed % 6]), sound(seed + 1, rng.choice(KINDS))
    return rng.choice(
        [first + second, first[:20] + second, b"PK\3\4" + first, b"<html>" + first, first[:2] + second]
    )


def no_image(seed: int) -> bytes:
    rng = random.Random(seed)
    size = rng.choice([1, 2, 16, 1000])
    magic = rng.choice([b"", b"BM", b"II*\0", b"MM\0*", b"\xff\xd8\xff", b"GIF89a", b"RIFF\0\0\0\0WEBP"])
    return rng.choice(
        [b"", bytes(size), b"plain text\n" * size, rng.randbytes(size), magic + rng.randbytes(size)]
    )


MAKERS: dict[str, Callable[[int], bytes]] = {
    maker.__name__: maker
    for maker in (
        *(bit_flips, truncation, spliced, lying_header, png_bomb, gif_bomb, hostile_tiff, hostile_bmp),
        *(hostile_webp, hostile_jpeg, hostile_profile, hostile_exif, polyglot, no_image),
    )
}


def corpus(count: int) -> Iterator[tuple[str, bytes]]:
    """Yields names and contents, of each kind as many; the costly bombs only once each."""
    made, seed = 0, 0
    while True:
        for name, maker in MAKERS.items():
            if seed >= {"png_bomb": 8, "gif_bomb": 3, "hostile_jpeg": 10}.get(name, count):
                continue
            if made == count:
                return
            made += 1
            yield f"{name}-{seed}", maker(seed)
        seed += 1
