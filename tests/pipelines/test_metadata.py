"""metadata.yaml and OWNERS of components and pipelines, in the schema of kubeflow/pipelines-components."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from clipseg_kfp.components import ALL as COMPONENTS
from clipseg_kfp.pipelines import ALL as PIPELINES

ROOT = Path(__file__).parents[2]
FOLDERS = [
    *(ROOT / "components" / one.component_spec.name.replace("-", "_") for one in COMPONENTS),
    *(ROOT / "pipelines" / name for name in PIPELINES),
]
MAX_AGE = timedelta(days=365)
Words = Annotated[list[str], Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Dependency(_Strict):
    name: Literal["Pipelines"]
    version: str


class Dependencies(_Strict):
    kubeflow: Annotated[list[Dependency], Field(min_length=1, max_length=1)]


class Ci(_Strict):
    skip_dependency_probe: bool


class Metadata(_Strict):
    name: str
    stability: Literal["experimental", "alpha", "beta", "stable"]
    dependencies: Dependencies
    tags: Words
    lastVerified: AwareDatetime
    ci: Ci
    links: dict[str, str]


class Owners(_Strict):
    approvers: Words
    reviewers: Words


def read(path: Path) -> dict[str, object]:
    content: dict[str, object] = yaml.safe_load(path.read_text("utf-8"))
    return content


def changed_at() -> datetime:
    """When the commit that is checked out was made: an old commit passes as it did then, on any day."""
    asked = subprocess.run(
        ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"], capture_output=True, text=True, check=False
    )
    if asked.returncode:
        pytest.skip("not a git checkout")
    return datetime.fromtimestamp(int(asked.stdout), UTC)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_metadata_follows_the_schema(folder: Path) -> None:
    metadata = Metadata.model_validate(read(folder / "metadata.yaml"))
    assert metadata.name == folder.name
    assert SpecifierSet(metadata.dependencies.kubeflow[0].version).contains(version("kfp"))
    for link in metadata.links.values():
        assert (folder / link).is_file()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_what_is_released_was_verified_within_a_year(folder: Path) -> None:
    verified = Metadata.model_validate(read(folder / "metadata.yaml")).lastVerified
    assert -timedelta(days=1) <= changed_at() - verified <= MAX_AGE


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_owner_is_an_alias_with_members(folder: Path) -> None:
    owners = Owners.model_validate(read(folder / "OWNERS"))
    aliases = read(ROOT / "OWNERS_ALIASES")["aliases"]
    assert isinstance(aliases, dict)
    assert all(aliases.get(name) for name in (*owners.approvers, *owners.reviewers))
