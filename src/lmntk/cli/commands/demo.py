"""``lmntk demo``: what the tool is for, on a model and texts that come with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lmntk.bundled import MODEL
from lmntk.cli.options import JsonOption, given_path
from lmntk.cli.printing import print_wrapped
from lmntk.errors import UserError

REAL = Path("build/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")


def demo(
    out: Annotated[
        Path, typer.Option(parser=given_path, metavar="PATH", help="the output folder; a rerun resumes it")
    ] = Path("runs/demo"),
    real: Annotated[
        bool, typer.Option("--real", help="on SmolLM2-135M, which `make smollm2` downloads")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="seed of the split")] = 13,
    as_json: JsonOption = False,
) -> None:
    """Forecast a fine-tuning, train for real, and compare.

    Then explain three predictions, look for a wrong label that was planted, and find a task that is better left
    alone. About 70 seconds on two idle cores, without a network.

    Example: lmntk demo
    """
    if real and not REAL.is_file():
        raise UserError(
            f"real: {str(REAL)!r} is not there; run `make smollm2` in lmntk's folder, and start from there"
        )
    from lmntk.cli.demonstration import Scale, show
    from lmntk.cli.demonstration import as_json as in_json

    large = Scale(
        REAL, "{a}\nThis message is about the", {"sgd": 1e-3, "adamw": 1e-5},
        shots=5, steps=16, looks=2, test_texts=40, labelled=36,
    )  # fmt: skip
    small = Scale(
        MODEL, "{a} It is about the {mask}.", {"sgd": 4e-3, "adamw": 5e-5},
        shots=16, steps=100, looks=5, test_texts=200, labelled=64,
    )  # fmt: skip
    shown = show(large if real else small, out, seed)
    from lmntk.cli.demo_sentences import bars_of, lines_of
    from lmntk.explanation.written import contents_of
    from lmntk.reports.demo_page import write_demo_page

    lines = lines_of(shown)
    explained = contents_of(shown.explanation)["texts"]
    missing = write_demo_page(out, shown.trained, lines, bars_of(shown), explained)
    if as_json:
        print(in_json(shown))
        return
    for name, line in lines.items():
        print_wrapped(f"{name}: {line}", 2)
    page = missing or f"open {out / 'report.html'}"
    print_wrapped(f"Next: {page}; then `lmntk fit FILE --model MODEL --out DIR` on texts of your own", 2)
