"""Two fine-tunings of one split, such as SignGD's and Adam's, whose early steps are the same in theory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from lmntk.diagnosis.uncertainty import standard_error
from lmntk.diagnosis.verdict import SURE
from lmntk.errors import UserError


@dataclass(frozen=True)
class Seen:
    """The test texts of a split: their labels, and the classes that two fine-tunings of it predict."""

    metric: str
    labels: tuple[int, ...]
    first: tuple[int, ...]
    second: tuple[int, ...]

    def parts(self) -> list[tuple[float, tuple[int, ...]]]:
        """Return the difference of their metrics as ``standard_error`` takes it."""
        return [(1.0, self.first), (-1.0, self.second)]


@dataclass(frozen=True)
class Comparison:
    """Two fine-tunings side by side, of one split or over the splits of a task.

    Attributes:
        first, second: their test metrics.
        error: the standard error of the difference, of texts that both saw, and over splits of those as well.
        agreement: the share of test texts that both give the same class.
        differs: whether the metrics differ by more than twice the error.
        sentence: the same in words.
        seen: of one split its predictions, from which the error over splits is made; None over splits.
    """

    first: float
    second: float
    error: float
    agreement: float
    differs: bool
    sentence: str
    seen: Seen | None = field(default=None, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, without the single texts."""
        return {name: value for name, value in asdict(replace(self, seen=None)).items() if name != "seen"}


def compare(first: Mapping[str, Any], second: Mapping[str, Any], labels: Sequence[int]) -> Comparison:
    """Return the comparison of two results of one split, each as ``finetunings/*.json`` has it.

    Args:
        first: with ``method``, ``metric``, ``test`` and ``predictions``.
        second: the same, of the same split.
        labels: of the test texts.

    Raises:
        UserError: results of different splits or metrics, or of a training that diverged.
    """
    for name in ("split", "metric"):
        if first.get(name) != second.get(name):
            raise UserError(
                f"compare: {name} {first.get(name)!r} and {second.get(name)!r} are not the same; "
                "give two results of one split"
            )
    for result in (first, second):
        if result.get("test") is None or len(result.get("predictions") or ()) != len(labels):
            raise UserError(
                f"compare: {result.get('method')!r} has no predictions of these {len(labels)} test texts; "
                "did it diverge?"
            )
    scores = float(first["test"]), float(second["test"])
    seen = Seen(
        str(first["metric"]), tuple(labels), tuple(first["predictions"]), tuple(second["predictions"])
    )
    error = standard_error(seen.metric, labels, seen.parts())
    agreement = float(np.mean(np.asarray(first["predictions"]) == np.asarray(second["predictions"])))
    differs = abs(scores[0] - scores[1]) > SURE * error
    sentence = (
        f"{first['method']} has {100 * scores[0]:.1f} % and {second['method']} {100 * scores[1]:.1f} %, a difference of "
        f"{100 * abs(scores[0] - scores[1]):.1f} points, {'more than' if differs else 'within'} twice the error of "
        f"{100 * error:.1f} points; they agree on {100 * agreement:.1f} % of the test texts"
    )
    return Comparison(*scores, error, agreement, differs, sentence, seen)
