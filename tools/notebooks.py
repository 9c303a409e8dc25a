"""Run the notebooks of docs/notebooks, and write what their cells print and draw into them.

    python tools/notebooks.py                      # all of them
    python tools/notebooks.py first-kernel         # one

No Jupyter is needed: a cell is Python without magic, its output is what it prints, and a picture is what matplotlib has open.
A test runs the same cells and compares what they print.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "notebooks"
DOTS = 60  # an inch: pictures stay small


def run_cells(notebook: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str, bytes | None]]:
    """Yield each cell of code, what it prints, and the picture that it leaves, in order and in one namespace."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    namespace: dict[str, Any] = {}
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] != "code":
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), namespace)
        picture = None
        if pyplot.get_fignums():
            file = io.BytesIO()
            pyplot.gcf().savefig(file, dpi=DOTS, bbox_inches="tight")
            pyplot.close("all")
            picture = file.getvalue()
        yield cell, printed.getvalue(), picture


def outputs_of(printed: str, picture: bytes | None) -> list[dict[str, Any]]:
    """Return outputs as a notebook's file has them."""
    outputs: list[dict[str, Any]] = []
    if printed:
        outputs.append({"name": "stdout", "output_type": "stream", "text": printed.splitlines(keepends=True)})
    if picture is not None:
        data = {"image/png": base64.b64encode(picture).decode(), "text/plain": ["<Figure>"]}
        outputs.append({"data": data, "metadata": {}, "output_type": "display_data"})
    return outputs


if __name__ == "__main__":
    for path in [FOLDER / f"{name}.ipynb" for name in sys.argv[1:]] or sorted(FOLDER.glob("*.ipynb")):
        written = json.loads(path.read_text(encoding="utf8"))
        for count, (cell, printed, picture) in enumerate(run_cells(written), 1):
            cell["execution_count"], cell["outputs"] = count, outputs_of(printed, picture)
        path.write_text(json.dumps(written, indent=1, ensure_ascii=False) + "\n", encoding="utf8")
        print(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB")
