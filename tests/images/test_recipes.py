"""What can be told of the images without building them: users, labels, locks, bills of materials, versions."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from docker_engine import ROOT

from clipseg_kfp import __version__
from clipseg_kfp.site.compile import compile_pipeline, settings_for
from clipseg_kfp.site.image import DEFAULT_IMAGE

IMAGES = ROOT / "images"
LOCKS = sorted(path.parent.name for path in IMAGES.glob("*/requirements.txt"))
RECIPES = [IMAGES / "Dockerfile", IMAGES / "notebook" / "Dockerfile"]
PIN = re.compile(r"^(?P<name>[a-z0-9-]+)={2,3}(?P<version>[^\s;]+)", re.M)


def lock(name: str) -> str:
    return (IMAGES / name / "requirements.txt").read_text("utf-8")


def pins(text: str) -> dict[str, str]:
    return {match["name"]: match["version"] for match in PIN.finditer(text)}


def final_stage(recipe: Path) -> str:
    return recipe.read_text("utf-8").rpartition("\nFROM ")[2]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.parent.name)
def test_an_image_runs_as_a_number_that_is_not_root_s(recipe: Path) -> None:
    users = re.findall(r"^USER (.+)$", final_stage(recipe), re.M)
    assert users[-1] == "1000:1000"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.parent.name)
def test_an_image_says_what_it_is(recipe: Path) -> None:
    stage = final_stage(recipe)
    for label in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in stage
    assert 'version="${VERSION}"' in stage


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.parent.name)
def test_whatever_pip_installs_is_locked_by_hashes_and_leaves_no_cache(recipe: Path) -> None:
    text = recipe.read_text("utf-8").replace("\\\n", " ")
    installs = re.findall(r"pip --python \S+ install (.*?)(?: && |\n)", text)
    assert installs
    for command in installs:
        assert "--no-cache-dir" in command and "--no-deps" in command
        local = command.rstrip().endswith("/build/source")
        assert local or "--require-hashes" in command


@pytest.mark.parametrize("name", LOCKS)
def test_every_pin_of_a_lock_has_hashes(name: str) -> None:
    assert set(LOCKS) == {"cpu", "cpu-int8", "gpu", "notebook"}
    entries = [entry for entry in re.split(r"\n(?=[a-z0-9])", lock(name)) if PIN.match(entry)]
    assert len(entries) > 50
    for entry in entries:
        assert "--hash=sha256:" in entry, entry


@pytest.mark.parametrize("name", LOCKS)
def test_an_image_has_the_versions_that_the_tests_ran_with(name: str) -> None:
    tested = pins((ROOT / "locks" / "test.txt").read_text("utf-8"))
    found = pins(lock(name))
    both = found.keys() & tested.keys()
    assert {package: found[package] for package in both} == {package: tested[package] for package in both}
    assert {"kfp", "torch", "transformers", "minio", "pyarrow"} <= both


def test_hashes_tell_the_builds_of_torch_apart() -> None:
    def hashes(name: str) -> set[str]:
        entry = next(item for item in re.split(r"\n(?=[a-z0-9])", lock(name)) if item.startswith("torch="))
        return set(re.findall(r"sha256:([0-9a-f]{64})", entry))

    assert hashes("cpu") == hashes("cpu-int8") == hashes("notebook")
    assert not hashes("cpu") & hashes("gpu")
    assert not {name for name in pins(lock("cpu")) if name.startswith(("nvidia-", "triton"))}
    assert {"nvidia-cudnn-cu13", "nvidia-cublas"} <= pins(lock("gpu")).keys()


def test_tasks_get_kfp_without_its_client() -> None:
    for name in ("cpu", "cpu-int8", "gpu"):
        found = pins(lock(name))
        assert "kfp" in found
        assert not {"kfp-server-api", "kubernetes", "kfp-kubernetes", "google-cloud-storage"} & found.keys()
    assert "kfp-server-api" in pins(lock("notebook"))


@pytest.mark.parametrize("name", ["cpu", "gpu", "notebook"])
def test_an_image_gets_what_the_package_asks_for(name: str) -> None:
    """A dependency that was added to pyproject.toml and not locked would be missed in a pod first."""
    script = str(ROOT / "locks" / "image_requirements.py")
    wanted = subprocess.run([sys.executable, script, name], capture_output=True, text=True, check=True).stdout
    names = {re.split(r"[^A-Za-z0-9._-]", line)[0].lower() for line in wanted.split("\n") if line}
    assert names <= pins(lock(name)).keys()


@pytest.mark.parametrize("name", LOCKS)
def test_a_bill_of_materials_is_its_lock(name: str) -> None:
    bill = json.loads((IMAGES / name / "sbom.cdx.json").read_text("utf-8"))
    assert bill["bomFormat"] == "CycloneDX"
    assert {item["name"]: item["version"] for item in bill["components"]} == pins(lock(name)), (
        "run `make locks`"
    )
    assert bill["metadata"]["component"]["version"] == __version__


def test_package_and_image_have_one_version() -> None:
    assert f":{__version__}" in DEFAULT_IMAGE
    assert f'version = "{__version__}"' in (ROOT / "pyproject.toml").read_text("utf-8")
    assert f"COMPONENTS=clipseg-kfp-python-cpu:{__version__}" in RECIPES[1].read_text("utf-8")
    gpu = compile_pipeline("batch-segmentation", settings=settings_for("gpu"))
    executors = next(yaml.safe_load_all(gpu))["deploymentSpec"]["executors"]
    images = {executor["container"]["image"] for executor in executors.values()}
    assert images == {DEFAULT_IMAGE, f"clipseg-kfp-python-gpu:{__version__}"}


def test_slimming_removes_what_it_names_and_keeps_the_rest(tmp_path: Path) -> None:
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    gone = ["torch/test/x.py", "pandas/tests/y/z.py", "sympy/a/tests/t.py", "transformers/models/bert/m.py"]
    kept = [
        "torch/nn/x.py",
        "transformers/models/clipseg/m.py",
        "transformers/models/__init__.py",
        "pandas/t.py",
    ]
    for name in gone + kept:
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_bytes(b"x" * 200_000)
    command = [sys.executable, str(IMAGES / "slim.py"), str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert not [name for name in gone if (site / name).exists()]
    assert all((site / name).exists() for name in kept)
    assert "0.8 MB  left of 1.6" in said


def test_no_machine_of_ours_is_in_a_recipe() -> None:
    for path in [*RECIPES, *IMAGES.rglob("*.sh"), *IMAGES.rglob("*.py"), *ROOT.glob("locks/*")]:
        text = path.read_text("utf-8")
        assert not re.search(r"(?i)find-links /opt|index-url http|proxy|/root/(?!\.cache)", text), path


def stub(folder: Path, name: str) -> Path:
    """A program that writes its arguments, a line a call, into a file beside it."""
    folder.mkdir(exist_ok=True)
    program = folder / name
    program.write_text(f'#!/bin/sh\necho "$@" >>"$(dirname "$0")/{name}.log"\n', "utf-8")
    program.chmod(0o755)
    return program


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ({}, True),
        ({"PIP_INDEX_URL": "https://index.example/simple"}, False),
        ({"PIP_ARGS": "--no-index"}, False),
        ({"PIP_EXTRA_INDEX_URL": "https://more.example"}, False),
    ],
    ids=str,
)
def test_without_an_index_of_ones_own_torch_s_cpu_build_is_found(
    tmp_path: Path, given: dict[str, str], asked: bool
) -> None:
    docker = stub(tmp_path, "docker")
    environment = {"PATH": os.environ["PATH"], "DOCKER": str(docker), **given}
    command = ["sh", "images/build.sh", "cpu", "gpu"]
    said = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    cpu, gpu = [line for line in (tmp_path / "docker.log").read_text("utf-8").splitlines() if "build" in line]
    index = "PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu"
    assert (index in cpu, "download.pytorch.org" in said.stdout) == (asked, asked)
    assert index not in gpu  # CUDA's build is PyPI's
    assert all(f"{name}={value}" in cpu and f"{name}={value}" in gpu for name, value in given.items())


def base_script(folder: Path, tools: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs images/base/build.sh where only these programs are."""
    (folder / "bin").mkdir(exist_ok=True)
    for tool in tools:
        found = shutil.which(tool)
        assert found
        (folder / "bin" / tool).symlink_to(found)
    return subprocess.run(
        ["/bin/sh", "images/base/build.sh"],
        cwd=ROOT,
        env={"PATH": str(folder / "bin"), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_archives_that_were_carried_over_need_no_mmdebstrap(tmp_path: Path) -> None:
    for name in ("base.tar", "build-base.tar"):
        (tmp_path / name).write_bytes(b"")
    docker = stub(tmp_path / "bin", "docker")
    done = base_script(tmp_path, ["mkdir", "dirname"], FOLDER=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "built clipseg-kfp-build-base:bookworm" in done.stdout
    assert docker.with_name("docker.log").read_text("utf-8").count("import") == 2


def test_archives_are_made_without_docker_and_with_security_updates(tmp_path: Path) -> None:
    program = stub(tmp_path / "bin", "mmdebstrap")
    program.write_text(program.read_text("utf-8") + ': >"$FOLDER/build-base.part"\n')
    done = base_script(
        tmp_path,
        ["mkdir", "rm", "mv", "dirname"],
        FOLDER=str(tmp_path),
        MIRROR="http://mirror.example/debian/",
    )
    assert done.returncode == 0 and "archives made" in done.stdout, done.stderr
    asked = program.with_name("mmdebstrap.log").read_text("utf-8")
    for line in (
        "deb http://mirror.example/debian/ bookworm main",
        "deb http://mirror.example/debian/ bookworm-updates main",
        "deb http://mirror.example/debian-security bookworm-security main",
    ):
        assert line in asked
    done = base_script(tmp_path, [])
    assert done.returncode == 1 and "FOLDER=path makes the archives alone" in done.stderr


@pytest.mark.parametrize(
    ("given", "passed"), [("", ""), ("1", "--upgrade "), ("-P pillow -P numpy", "-P pillow -P numpy ")]
)
def test_locks_take_newer_versions_where_they_are_asked_to(tmp_path: Path, given: str, passed: str) -> None:
    shutil.copytree(ROOT / "locks", tmp_path / "locks")
    shutil.copytree(IMAGES, tmp_path / "images", ignore=shutil.ignore_patterns("*.whl"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    compiler = stub(tmp_path / "bin", "pip-compile")
    (tmp_path / "bin" / "python").write_text("#!/bin/sh\n", "utf-8")
    (tmp_path / "bin" / "python").chmod(0o755)
    command = ["sh", "locks/resolve.sh", str(tmp_path / "bin")]
    subprocess.run(command, cwd=tmp_path, env={**os.environ, "UPGRADE": given}, check=True, input="")
    calls = compiler.with_name("pip-compile.log").read_text("utf-8").splitlines()
    assert len(calls) == 6
    for call in calls:
        assert f"-c locks/constraints.txt {passed}-" in call, call


def test_the_notebook_proves_that_its_demo_and_client_are_there() -> None:
    """Its environment is the image's /opt/clipseg-kfp, so the examples lie where sys.prefix says."""
    stage = final_stage(RECIPES[1])
    assert "COPY examples /opt/clipseg-kfp/examples" in stage
    smoke = stage.partition("COPY examples")[2]
    assert "python /opt/clipseg-kfp/smoke.py" in smoke and "clipseg_kfp.demo.run" in smoke
