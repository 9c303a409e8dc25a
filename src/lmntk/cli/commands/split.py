"""``lmntk split``: the row numbers of a k-shot split."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from lmntk.errors import UserError


def split(
    task: Annotated[str, typer.Option(help="one of the 14 tasks")],
    data: Annotated[str, typer.Option(help="folder of the tasks' texts")],
    k: Annotated[int, typer.Option("--k", help="texts of each class")],
    seed: Annotated[int, typer.Option(help="the split's seed")] = 13,
    test_limit: Annotated[int, typer.Option(help="test texts at most")] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="no effect: it always prints JSON")] = True,
) -> None:
    """Print the row numbers of a k-shot split as JSON.

    Rows count from 0, in file order. The keys are train, dev and test.

    Example: lmntk split --task sst-2 --data data --k 16 --seed 13
    """
    if k < 1 or test_limit < 1 or not 0 <= seed < 2**32:
        raise UserError("split: --k and --test-limit must be at least 1, --seed from 0 to 4294967295")
    from lmntk.experiment.reading import splits_of
    from lmntk.tasks import get_task, read_data

    known = get_task(task)
    split = splits_of(
        known.name, read_data(data, known, k=k, seed=seed), k, seed, ["prompt"], test_limit, known.csv_style
    )[0]
    print(json.dumps({"train": split.train, "dev": split.dev, "test": split.test}))
