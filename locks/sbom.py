"""Writes an image's software bill of materials beside its lock: ``python locks/sbom.py cpu``.

cyclonedx-py reads the lock; left out is what it guesses (where files come from) or repeats (the lock's lines).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def bill(image: str) -> dict[str, Any]:
    """The CycloneDX document of an image's Python packages; Debian's are in the image's own dpkg database."""
    command = [sys.executable, "-W", "ignore", "-m", "cyclonedx_py", "requirements", "--output-reproducible"]
    command += [
        "--pyproject",
        str(ROOT / "pyproject.toml"),
        str(ROOT / "images" / image / "requirements.txt"),
    ]
    document: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    for component in document["components"]:
        del component["description"], component["externalReferences"]
        component["bom-ref"] = component["purl"]
    document["components"].sort(key=lambda component: component["purl"])
    refs = [component["purl"] for component in document["components"]]
    document["dependencies"] = [{"ref": "root-component", "dependsOn": refs}]
    del document["metadata"]["tools"]
    return document


if __name__ == "__main__":
    for name in sys.argv[1:]:
        text = json.dumps(bill(name), indent=1, sort_keys=True) + "\n"
        (ROOT / "images" / name / "sbom.cdx.json").write_text(text, "utf-8")
