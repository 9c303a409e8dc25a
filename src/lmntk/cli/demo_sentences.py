"""The sentences and bars of the demonstration: the question, the forecast, the real trainings, a task to leave alone, a wrong label."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING, Any

from lmntk.bundled import PRODUCTS

if TYPE_CHECKING:
    from lmntk.cli.demonstration import Shown

NAMES = {"sgd fine-tuning": "SGD", "adamw fine-tuning": "AdamW"}
LEAVE_IT = "Leave it alone"


def is_worse(shown: Shown) -> bool:
    """Return whether the fit of the rooms says that it is worse than a rival."""
    return shown.rooms.standing is not None and shown.rooms.standing["outcome"] == "worse"


def lines_of(shown: Shown) -> dict[str, str]:
    """Return the five lines, by what each is about."""
    accuracy = _accuracies(shown)
    first = shown.rows[0]
    classes = len(PRODUCTS)
    return {
        "Asked": f"which of {classes} products is a message about? {first['train_texts'] // classes} labelled messages of each "
        f"are there to learn from, and {first['test_texts']} others to test; chance is {100 / classes:.0f} %",
        "Forecast": f"training to the end in the kernel regime would reach {_percent(accuracy['sgd ridge'], first)}; "
        f"the prompt alone has {_percent(accuracy['zero-shot'])}, a linear probe {_percent(accuracy['linear probe'])}",
        "Really trained": ". ".join(_trained(verdict) for verdict in shown.verdicts["verdicts"]),
        (
            LEAVE_IT if is_worse(shown) else "Another task"
        ): f"sort such sentences by room, and `lmntk fit` answers: {_sentence(shown)}",
        "A wrong label": _label(shown),
    }


def _percent(share: float, row: Any = None) -> str:
    """Return a share in percent; with a row, the error that its test texts leave."""
    if row is None:
        return f"{100 * share:.0f} %"
    texts = row["test_texts"]
    smoothed = (share * texts + 2) / (texts + 4)
    return f"{100 * share:.0f} ± {100 * sqrt(smoothed * (1 - smoothed) / (texts + 4)):.0f} %"


def bars_of(shown: Shown) -> list[tuple[str, float]]:
    """Return the accuracies on the test texts, in percent, by what has them: the forecast, the trainings, and what needs neither."""
    accuracy = {method: 100 * share for method, share in _accuracies(shown).items()}
    really = [
        (
            f"{NAMES.get(verdict['method'], verdict['method'])}, really trained",
            100 * verdict["numbers"]["fine_tuned"],
        )
        for verdict in shown.verdicts["verdicts"]
        if verdict["numbers"]["fine_tuned"] is not None
    ]
    emulated = [
        (
            f"{NAMES.get(verdict['method'], verdict['method'])}, emulated by the kernel",
            100 * verdict["numbers"]["emulated"],
        )
        for verdict in shown.verdicts["verdicts"]
        if verdict["forecast"]["emulator"] is not None
    ]
    rivals = [(name.capitalize(), accuracy[name]) for name in ("linear probe", "zero-shot")]
    return [
        ("Forecast, to the end", accuracy["sgd ridge"]),
        *really,
        *emulated,
        *rivals,
        ("Chance", 100 / len(PRODUCTS)),
    ]


def _accuracies(shown: Shown) -> dict[str, float]:
    """Return the accuracy of each method on the test texts; a training that diverged has none."""
    return {row["method"]: row["test"] for row in shown.rows if row["test"] is not None}


def _trained(verdict: dict[str, Any]) -> str:
    """Return what a real training reached, by how much its forecasts missed, and whether the kernel regime holds."""
    numbers, forecast = verdict["numbers"], verdict["forecast"]
    name = NAMES.get(verdict["method"], verdict["method"])
    if numbers["fine_tuned"] is None:
        return f"{name} diverged ({verdict['regime']['phrase']})"
    reached = f"{name} reached {_percent(numbers['fine_tuned'])}"
    if forecast["overshoots"]:
        reached += " and had not converged"
    elif forecast["kernel"] is not None:
        reached += f"; the forecast missed it by {forecast['kernel']['figure']} points"
    if forecast["emulator"] is not None:
        reached += f"; the kernel's emulation of the same steps has {_percent(numbers['emulated'])}"
    return f"{reached} ({verdict['regime']['phrase']})"


def _sentence(shown: Shown) -> str:
    """Return the first sentence of the fit that says no."""
    standing = shown.rooms.standing
    assert standing is not None  # every room has texts to hold out
    return str(standing["sentence"])


def _label(shown: Shown) -> str:
    """Return whether the planted label was found, and where it stands."""
    from lmntk.cli.demonstration import rank_of

    rank, named = rank_of(shown), shown.audit.named
    found = "it was found" if rank <= named else "it was not found"
    return (
        f"one label of {len(shown.audit.rows)} was made wrong on purpose; by suspicion it is number {rank}, "
        f"and `lmntk audit` names {named} as wrong: {found}"
    )
