"""``lmntk predict``: any number of texts through a solved model."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from lmntk.cli.configured import some_options
from lmntk.cli.options import JsonOption
from lmntk.cli.printing import with_progress

OPTIONS = partial(some_options, ("model", "memory", "device", "device_memory"))


def predict(
    context: typer.Context,
    model_dir: Annotated[Path, typer.Option(help="a run's folder, or one of its models/*")],
    source: Annotated[
        str,
        typer.Option(
            "--input", help="JSON lines with text_a, and text_b for pairs; - is stdin; or CSV, TSV, Parquet"
        ),
    ],
    target: Annotated[
        str,
        typer.Option("--output", help="a line a text: class, label, probabilities, decisions; - is stdout"),
    ] = "-",
    split: Annotated[
        str | None, typer.Option(help="of a run's folder", show_default="the best on dev")
    ] = None,
    method: Annotated[str | None, typer.Option(help='of a run\'s folder, such as "sgd ridge"')] = None,
    text_column: Annotated[
        str | None, typer.Option(help="column of the text", show_default="text_a, else text")
    ] = None,
    text_b_column: Annotated[
        str | None, typer.Option(help="column of the second text", show_default="text_b, if it is there")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="texts in one pass", min=1, rich_help_panel="Machine")] = 32,
    as_json: JsonOption = False,
) -> None:
    """Classify any number of texts with a solved model.

    One pass each, without training texts or kernels. Of runs with --save-models. --model says where the
    pre-trained model is now, if it has moved.

    Example: lmntk predict --model-dir runs/sst-2 --input texts.jsonl --output classes.jsonl
    """
    from lmntk.prediction.files import WantedPredictor
    from lmntk.prediction.predictor import PassLimits
    from lmntk.prediction.stream import predict_file
    from lmntk.prediction.texts import STANDARD, TextSource
    from lmntk.system.memory import default_memory, parse_bytes

    given = context.obj
    memory, device_memory = given.get("memory"), given.get("device_memory")
    wanted = WantedPredictor(split, method, given.get("model"))
    limits = PassLimits(
        batch_size,
        default_memory() if memory is None else parse_bytes(memory),
        None if device_memory is None else parse_bytes(device_memory, "device-memory"),
    )

    def work(progress: Any) -> dict[str, Any]:
        progress.work("texts", None)
        return predict_file(
            model_dir,
            TextSource(source, text_column, text_b_column),
            target,
            wanted,
            limits,
            device=given.get("device", "auto"),
            note=progress.note,
            report=progress.advance,
        )

    done = with_progress(work)
    if target == STANDARD:
        return  # stdout is the result
    if as_json:
        print(json.dumps(done, indent=1))
    else:
        print(f"{done['texts']} texts classified into {target} ({done['texts_per_second']:.1f} a second)")
