"""Draw the pictures of pages in docs/images, in headless Chromium: the top of a fit's page, and of the demonstration's.

python tools/page_pictures.py                # fits docs/examples/notes.csv on the bundled model, and draws its page
python tools/page_pictures.py FOLDER         # the page of a folder that `lmntk fit` wrote
python tools/page_pictures.py --demo FOLDER  # that of a folder that `lmntk demo` wrote
"""

from __future__ import annotations

import base64
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "src" / "lmntk" / "bundled" / "model"
FIT, DEMO = (760, 600), (900, 880)  # CSS pixels: what says most


def draw(folder: Path, target: Path, size: tuple[int, int]) -> None:
    """Write a picture of the top of a page."""
    sys.path.append(str(ROOT / "tests" / "reports"))
    from browser import Browser  # that of the tests

    with Browser() as browser:
        browser.call("Emulation.setScrollbarsHidden", hidden=True)
        width, height = size
        browser.open(folder / "report.html", width, height)
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
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
    images = ROOT / "docs" / "images"
    with tempfile.TemporaryDirectory() as work:
        if sys.argv[1:2] == ["--demo"]:
            draw(Path(sys.argv[2]), images / "demo-page.png", DEMO)
        else:
            draw(
                Path(sys.argv[1]) if len(sys.argv) > 1 else fit(Path(work) / "notes"),
                images / "fit-page.png",
                FIT,
            )
