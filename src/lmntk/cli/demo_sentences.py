"""What the demonstration says: what was asked, what was forecast, what really happened, whom to ask why, and what to leave alone."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING, Any

from lmntk.bundled import PRODUCTS

if TYPE_CHECKING:
    from lmntk.cli.demonstration import Shown

NAMES = {"sgd fine-tuning": "SGD", "adamw fine-tuning": "AdamW"}


def lines_of(shown: Shown) -> dict[str, str]:
    """Return the five lines, by what each is about."""
    accuracy = {row["method"]: row["test"] for row in shown.rows}
    first = shown.rows[0]
    return {
        "Asked": f"which of {len(PRODUCTS)} products is a message about? {first['train_texts'] // len(PRODUCTS)} labelled messages of each to learn from, "
        f"{first['test_texts']} others to test; chance is {100 / len(PRODUCTS):.0f} %",
        "Forecast": f"{_percent(accuracy['sgd ridge'], first)} for fine-tuning to the end, by the kernel, without training; "
        f"the prompt alone has {_percent(accuracy['zero-shot'])}, a linear probe {_percent(accuracy['linear probe'])}",
        "Really trained": ". ".join(_trained(verdict) for verdict in shown.verdicts["verdicts"]),
        "Leave it alone": f"for the same sentences about {_things(shown)}, sorted by room, `lmntk fit` says: "
        f'"{_standing(shown)}"',
        "A wrong label": _label(shown),
    }


def _percent(share: float, row: Any = None) -> str:
    """Return a share in percent; with a row, the error that its test texts leave."""
    if row is None:
        return f"{100 * share:.0f} %"
    texts = row["test_texts"]
    smoothed = (share * texts + 2) / (texts + 4)
    return f"{100 * share:.0f} ± {100 * sqrt(smoothed * (1 - smoothed) / (texts + 4)):.0f} %"


def _trained(verdict: dict[str, Any]) -> str:
    """Return what a real training reached, and by how much each forecast of it missed."""
    numbers, forecast = verdict["numbers"], verdict["forecast"]
    name = NAMES.get(verdict["method"], verdict["method"])
    reached = f"{name} reached {_percent(numbers['fine_tuned'])}"
    if forecast["overshoots"]:
        reached += f", for it had not converged: the forecast to the end is {forecast['kernel']['figure']} points off"
    else:
        reached += f"; the forecast missed it by {forecast['kernel']['figure']} points"
    if forecast["emulator"] is not None:
        reached += f", and that of these same steps, {_percent(numbers['emulated'])}, by {forecast['emulator']['figure']}"
    return f"{reached}; {verdict['regime']['phrase']}"


def _things(shown: Shown) -> str:
    return f"things for {len(shown.rooms.counts)} rooms"


def _standing(shown: Shown) -> str:
    standing = shown.rooms.standing
    assert standing is not None  # every room has texts to hold out
    return str(standing["sentence"])


def _label(shown: Shown) -> str:
    """Return whether the planted label was found, and where it stands."""
    from lmntk.cli.demonstration import rank_of

    rank, texts = rank_of(shown), len(shown.audit.rows)
    found = "it was found" if rank <= shown.audit.named else "it was not found"
    return f"one label of {texts} was made wrong on purpose; by suspicion it is number {rank}, `lmntk audit` names the first {shown.audit.named}, so {found}"
