"""Asks the advisory services about every package of the locks: ``make audit``.

Ends with 1 where a package has a known vulnerability. Where no service can be reached (a closed network) it says that
nothing was audited and ends with 0, or with 2 under ``--strict``. ``OSV_URL`` names a mirror of https://api.osv.dev.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
OSV = os.environ.get("OSV_URL", "https://api.osv.dev/v1/query")
SERVICES = {"OSV": ["-s", "osv", "--osv-url", OSV], "PyPI": ["-s", "pypi"]}
QUIET = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--timeout", "10", "-f", "json"]


def ask(service: str, lock: Path) -> list[dict[str, Any]]:
    """What a service says of each package of a lock; nothing where it cannot be reached.

    Packages that the service does not know of have a ``skip_reason``.
    """
    finished = subprocess.run(
        [sys.executable, "-m", "pip_audit", *SERVICES[service], *QUIET, "-r", str(lock)],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        found: list[dict[str, Any]] = json.loads(finished.stdout)["dependencies"]
    except ValueError:  # it ended in a traceback
        return []
    return found


def reachable(lock: Path) -> str | None:
    """The first service that knows the first package of a lock: 404 for all is no answer."""
    first = next(line for line in lock.read_text("utf-8").splitlines() if "==" in line)
    with tempfile.TemporaryDirectory() as folder:
        probe = Path(folder, "probe.txt")
        probe.write_text(first + "\n", "utf-8")
        for service in SERVICES:
            if any("skip_reason" not in package for package in ask(service, probe)):
                return service
    return None


def main() -> int:
    """Audits the locks named, or all."""
    parser = argparse.ArgumentParser(description="Audits the locks against known vulnerabilities.")
    parser.add_argument("locks", nargs="*", type=Path)
    parser.add_argument("--strict", action="store_true", help="fail where no service can be reached")
    given = parser.parse_args()
    locks = given.locks or [ROOT / "locks/demo.txt", ROOT / "locks/test.txt"]
    if not given.locks:
        locks += sorted(ROOT.glob("images/*/requirements.txt"))
    service = reachable(locks[0])
    if service is None:
        print("NOT AUDITED: neither OSV nor PyPI's advisories can be reached from here; nothing is known.")
        return 2 if given.strict else 0
    vulnerable = 0
    for lock in locks:
        packages = ask(service, lock)
        skipped = [package for package in packages if "skip_reason" in package]
        found = [(package, one) for package in packages for one in package.get("vulns", [])]
        print(f"{lock}: {len(packages) - len(skipped)} of {len(packages)} packages audited by {service}")
        for package in skipped:
            print(f"  not audited: {package['skip_reason']}")
        for package, one in found:
            fixed = ", ".join(one["fix_versions"]) or "no release"
            print(f"  {package['name']} {package['version']}: {one['id']}, fixed in {fixed}")
        vulnerable += len(found)
        if not packages:
            print("  the service stopped answering; this lock was not audited")
            vulnerable += given.strict
    print(f"{vulnerable} known vulnerabilities" if vulnerable else "no known vulnerabilities")
    return 1 if vulnerable else 0


if __name__ == "__main__":
    sys.exit(main())
