"""Draw docs/images/fit-page.png: the top of the page that `lmntk fit` writes for docs/examples/notes.csv, in headless Chromium.

python tools/fit_picture.py              # fits the bundled model first
python tools/fit_picture.py FOLDER       # of a folder that `lmntk fit` wrote
"""

from __future__ import annotations

import base64
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "src" / "lmntk" / "bundled" / "model"
WIDTH, HEIGHT = 760, 600  # CSS pixels: the sentence, the estimate and the rivals


def draw(folder: Path, target: Path) -> None:
    """Write a picture of the top of a fit's page."""
    sys.path.append(str(ROOT / "tests" / "reports"))
    from browser import Browser  # that of the tests

    with Browser() as browser:
        browser.call("Emulation.setScrollbarsHidden", hidden=True)
        browser.open(folder / "report.html", WIDTH, HEIGHT)
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": HEIGHT, "scale": 1}
        data = browser.call("Page.captureScreenshot", format="png", clip=clip, optimizeForSpeed=False)["data"]
    target.write_bytes(base64.b64decode(data))


def fit(folder: Path) -> Path:
    """Return a folder with the fit of the example's texts."""
    prompt = ("--template", "{a} It is about {mask}.", "--label-words", "food=food,sport=sports")
    notes = ROOT / "docs" / "examples" / "notes.csv"
    command = (
        sys.executable,
        "-m",
        "lmntk",
        "fit",
        str(notes),
        "--model",
        str(MODEL),
        *prompt,
        "--out",
        str(folder),
    )
    subprocess.run(command, check=True)
    return folder


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as work:
        fitted = Path(sys.argv[1]) if len(sys.argv) > 1 else fit(Path(work) / "notes")
        draw(fitted, ROOT / "docs" / "images" / "fit-page.png")
