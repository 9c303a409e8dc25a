"""From decisions to numbers: predicted classes, the best setting on dev, and the summary over splits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmntk.errors import UserError
from lmntk.solvers.inputs import Array, Labels, encode_labels
from lmntk.solvers.result import GridResult

Scorer = Callable[[Labels, Labels], float]


def predict_labels(decision: Any) -> Labels:
    """Return class numbers [M] from decisions.

    [M] or [M, 1] gives 1 where f > 0 else 0; [M, C] gives the argmax (the first of equals).
    """
    values = np.asarray(decision, dtype=np.float64)
    if np.isnan(values).any():
        raise UserError(
            f"{int(np.isnan(values).sum())} decisions are NaN, so no class can be predicted; "
            "check the kernel and f0"
        )
    if values.ndim == 1 or values.shape[1] == 1:
        return (values.reshape(-1) > 0).astype(np.int64)
    return np.asarray(values.argmax(axis=1), dtype=np.int64)


def accuracy(labels: Labels, predictions: Labels) -> float:
    """Return the share of equal entries."""
    return float(np.mean(labels == predictions))


def f1(labels: Labels, predictions: Labels) -> float:
    """F1 of class 1, 2 TP / (2 TP + FP + FN); 0 where it is undefined."""
    true_positive = int(np.sum((labels == 1) & (predictions == 1)))
    wrong = int(np.sum((labels == 1) != (predictions == 1)))
    return 2 * true_positive / (2 * true_positive + wrong) if true_positive else 0.0


SCORERS: dict[str, Scorer] = {"accuracy": accuracy, "f1": f1}


@dataclass(frozen=True, eq=False)
class Selection:
    """The chosen setting: its metric, and its decisions and predicted classes on every eval set."""

    setting: Mapping[str, float]
    metric: float
    decisions: Mapping[str, Array]
    predictions: Mapping[str, Labels]
    result: GridResult
    tied: int  # how many settings reached the same metric, this one included

    @property
    def test_predictions(self) -> Labels:
        """Predicted classes of the set called "test"."""
        if "test" not in self.predictions:
            raise UserError(
                "there is no eval set named 'test'; pass its kernel in SolverInputs.evals, or read "
                "predictions[name]"
            )
        return self.predictions["test"]


def strength(setting: Mapping[str, float]) -> tuple[float, ...]:
    """Return the rank of a setting among equals: greater is preferred.

    Most regularised first (large regularization, then small gamma, then small cost), then the larger
    f0_scale, then the mixture m nearest to one half, then the larger m.
    """
    mixture = setting.get("mixture", 0.5)
    return (
        setting.get("regularization", 0.0),
        -setting.get("gamma", 0.0),
        -setting.get("cost", 0.0),
        setting.get("f0_scale", 0.0),
        -abs(mixture - 0.5),
        mixture,
    )


def select_on_dev(
    results: Sequence[GridResult],
    dev_labels: Any,
    scorer: str | Scorer = "accuracy",
    *,
    split: str = "dev",
) -> Selection:
    """Return the setting with the best metric on eval set `split`.

    Ties are broken as in `strength`, never by the order of `results`.

    `scorer` is "accuracy", "f1" or a function of (labels, predictions), greater being better; metrics equal
    to 12 digits are ties.

    Raises:
        UserError: no results, no such eval set, labels that do not fit, or a metric that is NaN.
    """
    if results and split not in results[0].decisions:
        raise UserError(
            f"no eval set {split!r} in these results (they have {', '.join(results[0].decisions)}); "
            "pass its kernel to the solver"
        )
    return _select(results, [result.decisions[split] for result in results], dev_labels, scorer)


def select_on_leave_one_out(
    results: Sequence[GridResult], train_labels: Any, scorer: str | Scorer = "accuracy"
) -> Selection:
    """Return the best setting as `select_on_dev` does, by the leave-one-out decisions of the train set.

    They are exact, and no dev set is spent.
    """
    decisions = [result.loo for result in results if result.loo is not None]
    if len(decisions) < len(results):
        raise UserError(
            "these results have no leave-one-out decisions; call solve_grid('ridge', ..., leave_one_out=True)"
        )
    return _select(results, decisions, train_labels, scorer)


def _select(
    results: Sequence[GridResult], decisions: Sequence[Array], labels: Any, scorer: str | Scorer
) -> Selection:
    if not results:
        raise UserError(
            "there are no settings to choose from; give the solver a grid of at least one setting"
        )
    if isinstance(scorer, str):
        if scorer not in SCORERS:
            raise UserError(
                f"unknown metric {scorer!r}; choose one of {', '.join(SCORERS)} or pass a function"
            )
        scorer = SCORERS[scorer]
    indices = encode_labels(labels, decisions[0].shape[1], what="dev")
    if len(indices) != len(decisions[0]):
        raise UserError(
            f"{len(indices)} labels for {len(decisions[0])} decisions; "
            "pass one label an example, in the kernel's order"
        )
    metrics = [float(scorer(indices, predict_labels(decision))) for decision in decisions]
    if np.isnan(metrics).any():
        raise UserError(
            "the metric is NaN for some setting; use a metric that is defined for every prediction"
        )
    rounded = [round(metric, 12) for metric in metrics]
    best = max(range(len(results)), key=lambda k: (rounded[k], strength(results[k].setting)))
    chosen = results[best]
    return Selection(
        setting=dict(chosen.setting),
        metric=metrics[best],
        decisions=dict(chosen.decisions),
        predictions={name: predict_labels(decision) for name, decision in chosen.decisions.items()},
        result=chosen,
        tied=rounded.count(rounded[best]),
    )


@dataclass(frozen=True)
class Summary:
    """Mean, population standard deviation and median over splits, in per cent."""

    mean: float
    std: float
    median: float
    splits: int

    def __str__(self) -> str:
        return f"{self.mean:.1f} ({self.std:.1f}), median {self.median:.1f}"


def aggregate(metrics: Sequence[float]) -> Summary:
    """Return the paper's row of a table: metrics of the splits x 100, with the *population* deviation.

    The metrics are in [0, 1].
    """
    values = 100.0 * np.asarray(metrics, dtype=np.float64)
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise UserError(
            f"cannot aggregate {metrics!r}: pass a list of at least one finite metric, one a split"
        )
    return Summary(float(values.mean()), float(values.std()), float(np.median(values)), int(values.size))
