"""Two fine-tunings of one split, such as SignGD's and Adam's, whose early steps the theory takes for the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from lmntk.diagnosis.uncertainty import error_over_splits, standard_error
from lmntk.diagnosis.verdict import SURE
from lmntk.errors import UserError


@dataclass(frozen=True)
class Seen:
    """What two fine-tunings of one split said of its test texts: their labels, and the classes of the first and of the second."""

    metric: str
    labels: tuple[int, ...]
    first: tuple[int, ...]
    second: tuple[int, ...]

    def parts(self) -> list[tuple[float, tuple[int, ...]]]:
        """Returns the difference of their metrics as ``standard_error`` takes it."""
        return [(1.0, self.first), (-1.0, self.second)]


@dataclass(frozen=True)
class Comparison:
    """Two fine-tunings side by side, of one split or over the splits of a task.

    Attributes:
        first, second: their test metrics.
        error: the standard error of the difference, of texts that both saw, and over splits of those as well.
        agreement: the share of test texts that both give the same class.
        differs: True when the metrics differ by more than twice the error.
        sentence: the same in words.
        seen: of one split, what its test texts were taken for, from which the error over splits is made; None over splits.
    """

    first: float
    second: float
    error: float
    agreement: float
    differs: bool
    sentence: str
    seen: Seen | None = field(default=None, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Returns plain data, without the single texts."""
        return {name: value for name, value in asdict(replace(self, seen=None)).items() if name != "seen"}


def compare(first: Mapping[str, Any], second: Mapping[str, Any], labels: Sequence[int]) -> Comparison:
    """Returns how two results of one split compare, such as SignGD's and Adam's, each as ``finetuning/*.json`` has it.

    Args:
        first: with ``method``, ``metric``, ``test`` and ``predictions``.
        second: the same, of the same split.
        labels: of the test texts.

    Raises:
        UserError: results of different splits or metrics, or of a training that diverged.
    """
    for name in ("cell", "metric"):
        if first.get(name) != second.get(name):
            raise UserError(
                f"compare: {name} {first.get(name)!r} and {second.get(name)!r} are not the same; give two results of one cell"
            )
    for result in (first, second):
        if result.get("test") is None or len(result.get("predictions") or ()) != len(labels):
            raise UserError(
                f"compare: {result.get('method')!r} has no predictions of these {len(labels)} test texts; did it diverge?"
            )
    one, other = float(first["test"]), float(second["test"])
    seen = Seen(
        str(first["metric"]), tuple(labels), tuple(first["predictions"]), tuple(second["predictions"])
    )
    error = standard_error(seen.metric, labels, seen.parts())
    agreement = float(np.mean(np.asarray(first["predictions"]) == np.asarray(second["predictions"])))
    differs = abs(one - other) > SURE * error
    relation = "more than" if differs else "within"
    return Comparison(
        one,
        other,
        error,
        agreement,
        differs,
        f"{first['method']} has {100 * one:.1f} % and {second['method']} {100 * other:.1f} %, {relation} twice the error of "
        f"{100 * error:.1f} points apart; they agree on {100 * agreement:.1f} % of the test texts",
        seen,
    )


def over_splits(found: Sequence[Comparison], names: tuple[str, str]) -> Comparison:
    """Returns how two fine-tunings compare over the splits of a task: their means, and the error that splits and test texts leave.

    The error is that of a verdict over splits, ``error_over_splits``. One split alone keeps its own comparison.

    Args:
        found: of each split, as ``compare`` has it.
        names: of the two.

    Raises:
        UserError: no split, or one that is a mean over splits already.
    """
    if not found:
        raise UserError("compare: there is no split in which both ended; fine-tune with both")
    if len(found) == 1:
        return found[0]
    seen = [one.seen for one in found if one.seen is not None]
    if len(seen) < len(found):
        raise UserError(
            "compare: a mean over splits has no test texts of its own; give the comparison of each split"
        )
    differences = np.array([one.first - one.second for one in found])
    first, second = (float(np.mean([getattr(one, side) for one in found])) for side in ("first", "second"))
    error = error_over_splits(
        seen[0].metric, differences, [one.labels for one in seen], [one.parts() for one in seen]
    )
    agreement = float(np.mean([one.agreement for one in found]))
    differs = bool(abs(differences.mean()) > SURE * error)
    relation = "more than" if differs else "within"
    return Comparison(
        first,
        second,
        error,
        agreement,
        differs,
        f"{names[0]} has {100 * first:.1f} % and {names[1]} {100 * second:.1f} % over {len(found)} splits, {relation} twice the error of "
        f"{100 * error:.1f} points apart; they agree on {100 * agreement:.1f} % of the test texts",
    )
