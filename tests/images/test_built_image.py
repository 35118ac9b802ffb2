"""The CPU image that is really built: what is in it, what it may do, and a whole pipeline on it."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path

import pytest
from docker_engine import ROOT, inspect
from PIL import Image

from clipseg_kfp import __version__
from clipseg_kfp.demo.bucket import DEMO_QUERIES
from clipseg_kfp.demo.scenes import draw_scene
from clipseg_kfp.local.runner import run_batch
from clipseg_kfp.results.summary import read_run
from clipseg_kfp.storage import open_folder

pytestmark = pytest.mark.images

#: What a pod with tight security gets; kfp's runner hands these to Docker.
LOCKED = {
    "network_mode": "host",
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "mem_limit": "4g",
    "nano_cpus": 2 * 10**9,
}
MOST_BYTES = 1_350_000_000
MODEL = ROOT / "examples" / "demo-model"


def inside(image: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Runs a command in a container with a read-only root, without a network."""
    options = ["--rm", "--read-only", "--network", "none", "--cap-drop", "ALL"]
    return subprocess.run(
        ["docker", "run", *options, image, *command], capture_output=True, text=True, check=False
    )


def test_it_says_what_it_is_and_runs_as_nobody_in_particular(cpu_image: str) -> None:
    facts = inspect(cpu_image)
    config = facts["Config"]
    assert config["User"] == "1000:1000"  # a number: kubelet cannot check a name for runAsNonRoot
    assert set(config["Volumes"]) == {"/tmp"}
    labels = config["Labels"]
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert facts["Size"] < MOST_BYTES
    print(f"size: {facts['Size'] / 1e6:.0f} MB")


def test_only_its_temporary_folder_can_be_written(cpu_image: str) -> None:
    done = inside(
        cpu_image, "sh", "-c", 'id -u; touch "$HOME/a" "$TMPDIR/b" && mkdir -p "$CLIPSEG_KFP_CACHE"'
    )
    assert done.returncode == 0 and done.stdout.split() == ["1000"], done.stderr
    for place in ("/opt/clipseg-kfp/x", "/x", "/usr/local/x", "/var/tmp/x"):
        assert inside(cpu_image, "touch", place).returncode != 0, place


def test_nothing_that_builds_is_in_it(cpu_image: str) -> None:
    look = "for name in gcc cc c++ ld as strip make git pip pip3; do command -v $name; done; ls /build /root/.cache"
    found = inside(cpu_image, "sh", "-c", look).stdout
    assert found == ""


def test_its_bill_of_materials_is_what_is_installed(cpu_image: str) -> None:
    program = (
        "import json, re; from importlib.metadata import distributions as d; "
        "print(json.dumps({re.sub('[-_.]+', '-', x.metadata['Name']).lower(): x.version for x in d()}))"
    )
    done = inside(cpu_image, "python", "-c", program)
    installed = json.loads(done.stdout)
    bill = json.loads(inside(cpu_image, "cat", "/opt/clipseg-kfp/sbom.cdx.json").stdout)
    assert installed.pop("clipseg-kfp") == bill["metadata"]["component"]["version"] == __version__
    installed["torch"] = installed["torch"].removesuffix("+cpu")
    assert {item["name"]: item["version"] for item in bill["components"]} == installed


def test_the_whole_pipeline_on_it_writes_the_masks_of_a_local_run(
    cpu_image: str, tmp_path: Path, bucket: str, s3_env: dict[str, str]
) -> None:
    from kfp import local

    from clipseg_kfp.pipelines import batch_segmentation

    place = open_folder(f"s3://{bucket}")
    for file in MODEL.iterdir():
        place.write(f"model/{file.name}", file.read_bytes())
    for i in range(3):
        scene = draw_scene(3000 + i, (200, 160))
        place.write(f"in/images/s{i}.png", png(scene.image))
        place.write(f"in/masks/circle/s{i}.png", png(Image.fromarray(scene.mask(DEMO_QUERIES["circle"]))))
    place.write("in/images/broken.png", b"no image")
    parameters = {
        "source_uri": f"s3://{bucket}/in",
        "model_uri": f"s3://{bucket}/model",
        "prompts": [{"name": "circle", "texts": ["a circle"]}, {"name": "red", "texts": ["red"]}],
        "limits": {"shard_size": 2},
        "outputs": {"run_id": "same"},
        "endpoint": s3_env["S3_ENDPOINT"],
        "threshold": 0.5,
    }
    root = tmp_path / "artifacts"
    root.mkdir()
    root.chmod(0o777)  # the container's user is not this one

    local.init(
        local.DockerRunner(environment=dict(s3_env), **LOCKED), pipeline_root=str(root), raise_on_error=True
    )
    task = batch_segmentation(**parameters, output_uri=f"s3://{bucket}/docker")
    run_batch({**parameters, "output_uri": f"s3://{bucket}/local"}, tmp_path / "log")

    manifest = read_run(str(task.output)).manifest
    assert manifest["counts"] == {
        "listed": 4,
        "done": 3,
        "skipped": 0,
        "quarantined": 1,
        "masks": 6,
        "left": 0,
    }
    docker, subprocesses = (masks(f"s3://{bucket}/{name}") for name in ("docker", "local"))
    assert len(docker) == 3 * (2 + 2)  # a mask a prompt, a label map and a preview an image
    assert docker == subprocesses


def masks(uri: str) -> dict[str, bytes]:
    """Every picture below a prefix."""
    folder = open_folder(uri)
    return {
        entry.key: folder.read(entry.key)
        for entry in folder.entries()
        if entry.key.endswith((".png", ".jpg"))
    }


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
