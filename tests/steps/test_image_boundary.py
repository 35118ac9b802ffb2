"""What one image raises after it was decoded costs that image only."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from steps_chain import Chain, picture

from clipseg_kfp.steps import postprocess_masks, segment_images
from clipseg_kfp.storage import open_folder


def put(chain: Chain, **files: bytes) -> None:
    folder = open_folder(chain.source)
    for name, data in files.items():
        folder.write(f"{name}.png", data)


def statuses(run: Any) -> dict[str, tuple[str, str]]:
    return {key: (row["status"], row["reason"]) for key, row in run.images().items()}


@pytest.mark.parametrize("width", [1_000_001, 1_048_577, 3_000_000])
def test_a_png_that_opencv_refuses(chain: Chain, width: int) -> None:
    buffer = io.BytesIO()
    Image.new("1", (width, 1)).save(buffer, "PNG")
    put(chain, a=picture(1), b=buffer.getvalue(), c=picture(2))
    run = chain(label_maps=True, overlays=True, probability_bits=8)
    found = statuses(run)
    assert found["a.png"] == found["c.png"] == ("done", "")
    assert found["b.png"] == ("quarantined", "failed")
    row = run.images()["b.png"]
    assert row["detail"] and not row["label_map"] and not row["overlay"]
    assert run.manifest["counts"]["quarantined"] == 1
    assert {row["key"] for row in run.masks()} == {
        key for key, (status, _) in found.items() if status == "done"
    }


@pytest.mark.parametrize("error", [ValueError("odd"), MemoryError(), RuntimeError("-215:Assertion failed")])
def test_whatever_is_raised_for_one_image(
    chain: Chain, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    make = postprocess_masks.make_masks

    def makes(prompts: Any, maps: Any, boxes: Any, width: int, height: int) -> Any:
        for i, mask in enumerate(make(prompts, maps, boxes, width, height)):
            if width == 17 and i == 1:  # after the first prompt's mask is written
                raise error
            yield mask

    monkeypatch.setattr(postprocess_masks, "make_masks", makes)
    put(chain, a=picture(1), b=picture(2, 17), c=picture(3))
    run = chain()
    reason = "too_large" if isinstance(error, MemoryError) else "failed"
    assert statuses(run) == {"a.png": ("done", ""), "b.png": ("quarantined", reason), "c.png": ("done", "")}
    assert run.manifest["counts"]["done"] == 2 and run.manifest["counts"]["quarantined"] == 1
    assert {row["key"] for row in run.masks()} == {"a.png", "c.png"}


def test_a_broken_disk_is_no_image_s_fault(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(postprocess_masks, "make_masks", full)
    put(chain, a=picture(1))
    with pytest.raises(OSError, match="space"):
        chain()


def test_images_that_the_model_could_not_do(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    segment = segment_images.segment

    def segments(*arguments: Any, failed: dict[int, str], **options: Any) -> Any:
        for row, maps in segment(*arguments, failed=failed, **options):
            if row["image"] == 1:
                failed[1] = "segment_images cannot do it"
            else:
                yield row, maps

    monkeypatch.setattr(segment_images, "segment", segments)
    put(chain, a=picture(1), b=picture(2), c=picture(3))
    found = statuses(chain())
    assert found == {"a.png": ("done", ""), "b.png": ("quarantined", "failed"), "c.png": ("done", "")}


def test_a_folder_with_a_file_of_each_format(chain: Chain) -> None:
    kinds = {
        "avif": "AVIF",
        "jp2": "JPEG2000",
        "tga": "TGA",
        "ppm": "PPM",
        "ico": "ICO",
        "mpo": "MPO",
        "apng": "PNG",
    }
    folder = open_folder(chain.source)
    for suffix, kind in kinds.items():
        folder.write(f"a.{suffix}", picture(1, 48, 48, kind))
    planes = np.moveaxis(np.asarray(Image.open(io.BytesIO(picture(1)))).astype(np.uint16) * 257, -1, 0)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, planes, photometric="rgb", planarconfig="separate", metadata=None)
    folder.write("a.tif", buffer.getvalue())
    found = statuses(chain())
    assert found == {f"a.{suffix}": ("done", "") for suffix in (*kinds, "tif")}
