"""What the methods reached in a split, written down: its results, and each method's predictions of the test texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

from lmntk.experiment.preparation import PreparedTask
from lmntk.experiment.session import SIDES, Session
from lmntk.runs.store import Split
from lmntk.solvers.outcome import Outcome
from lmntk.system.hashing import versions


def keep_results(
    session: Session,
    task: PreparedTask,
    split: Split,
    labels: Mapping[str, Sequence[int]],
    outcomes: Sequence[Outcome],
    predictors: Sequence[str],
) -> dict[str, Any]:
    """Writes the predictions and results of a split, and returns the results; those of other methods on the same kernels stay.

    Args:
        session: of the run.
        task: of the split.
        split: whose results they are.
        labels: of its texts, by side.
        outcomes: of the baseline and of the methods that were asked for.
        predictors: names of the folders in ``models/`` that were saved of them.
    """
    key = session.result_key(task, split)
    head = {"task": task.name, "k": split.k, "seed": split.seed, "mode": split.mode}
    sizes = {f"{side}_texts": len(labels[side]) for side in SIDES}

    def row(outcome: Outcome) -> dict[str, Any]:
        setup = session.setup(task, split.mode, "kernel" if outcome.formula else "baseline")
        return head | outcome.as_row() | sizes | {"setup": setup}

    before = session.store.result(split, key) or {"rows": [], "predictors": [], "saved_models": []}
    others = {one["method"] for one in before["rows"] if one["formula"]} - {
        outcome.method for outcome in outcomes
    }
    old = _old_predictions(session, split, others)
    columns = {outcome.method: list(map(str, outcome.predictions)) for outcome in outcomes} | old
    lines = ["\t".join(["row", "label", *columns])]
    lines += [
        "\t".join(values)
        for values in zip(map(str, split.test), map(str, labels["test"]), *columns.values(), strict=True)
    ]
    session.store.write_text(f"predictions/{split.name}.tsv", "\n".join(lines) + "\n")
    saved = session.methods if session.experiment.save_models else []
    result = {
        "key": key,
        "content": session.content_key(task, split),
        "kernels": session.key(task, split),
        "cell": split.name,
        "model": session.pretrained.fingerprint,
        "classes": task.meaning(),
        "rows": [*map(row, outcomes), *(one for one in before["rows"] if one["method"] in old)],
        "split": {"train": split.train, "dev": split.dev, "test": split.test},
        "train_labels": labels["train"],
        "dev_labels": labels["dev"],
        "test_labels": labels["test"],
        "predictors": list(dict.fromkeys([*predictors, *before["predictors"]])),
        "saved_models": list(dict.fromkeys([*saved, *map(tuple, before["saved_models"])])),
        "versions": versions(),
    }
    session.store.write_json(f"cells/{split.name}.json", result)
    return result


def _old_predictions(session: Session, split: Split, methods: Set[str]) -> dict[str, list[str]]:
    """Returns the test predictions that an earlier run wrote for these methods; those that are not there any more are left out."""
    try:
        text = (session.store.folder / f"predictions/{split.name}.tsv").read_text(encoding="utf8")
    except OSError:
        return {}
    table = [line.split("\t") for line in text.splitlines()]
    if len(table) != len(split.test) + 1 or any(len(line) != len(table[0]) for line in table):
        return {}
    return {
        title: [line[place] for line in table[1:]] for place, title in enumerate(table[0]) if title in methods
    }
