"""Takes the docs' picture of a report from the last demo: ``python -m tools.report_picture``."""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

from clipseg_kfp.errors import ClipsegKfpError, exit_on_user_error

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTH, HEIGHT = 1240, 2030
SECONDS = 120
#: Hides the parts of the long page that the picture does not need.
_STYLE = """<style>
section[aria-labelledby="prompts-title"], section[aria-labelledby="quarantine-title"] { display: none; }
section, header { margin-bottom: 24px; }
.tools.tools { position: static; box-shadow: none; }
</style></head>"""


def photograph(page: str, width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """Draws the top of a report in a headless browser, in its light scheme.

    Args:
        page: the report.
        width: in pixels.
        height: in pixels.

    Raises:
        ClipsegKfpError: there is no browser, or it draws nothing.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise ClipsegKfpError(
            f"There is no browser ({', '.join(BROWSERS)}) to draw the page.",
            "Debian: apt install chromium",
            code="browser_missing",
        )
    with tempfile.TemporaryDirectory(prefix="clipseg-picture-") as name:
        folder = Path(name)
        (folder / "report.html").write_text(page.replace("</head>", _STYLE, 1), "utf-8")
        command = [
            browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--force-device-scale-factor=1", "--blink-settings=preferredColorScheme=1",
            f"--user-data-dir={folder / 'profile'}", f"--window-size={width},{height}",
            f"--screenshot={folder / 'page.png'}", (folder / "report.html").as_uri(),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        if not (folder / "page.png").exists():
            raise ClipsegKfpError(
                f"{browser} drew nothing: {done.stderr.strip()[-500:]}",
                "Start it by hand with the same page.",
                code="browser_failed",
                where=browser,
            )
        return Image.open(io.BytesIO((folder / "page.png").read_bytes())).convert("RGB")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(".demo"))
    parser.add_argument("--out", type=Path, default=Path("docs/report.png"))
    options = parser.parse_args()
    with exit_on_user_error("report-picture"):
        report = options.folder / "report.html"
        if not report.exists():
            raise ClipsegKfpError(
                f"There is no {report}.", "Run `make demo` first.", code="report_missing", where=str(report)
            )
        picture = photograph(report.read_text("utf-8"))
        options.out.parent.mkdir(parents=True, exist_ok=True)
        picture.save(options.out, optimize=True)
    print(f"Wrote {options.out}")


if __name__ == "__main__":
    main()
