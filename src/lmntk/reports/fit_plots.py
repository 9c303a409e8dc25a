"""A fit in pictures: how far its probabilities hold, and its held-out accuracy by the number of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lmntk.reports.drawing import INK, MUTED, SERIES, Plot, new_figure, to_svg
from lmntk.solvers.held_out import interval

DASHED = (0, (3, 3))


def reliability_plot(identity: str, rows: Sequence[Mapping[str, float]]) -> Plot:
    """Return how many of the decisions were right against how sure they were, a point a group of texts, with the diagonal.

    Args:
        identity: of the plot.
        rows: the groups, the least sure first: ``texts``, and shares ``confidence`` and ``right``.
    """
    title = "How sure, and how often right"
    figure, (panel,) = new_figure([2.4], left=0.55, right=0.3)
    panel.plot([0, 100], [0, 100], color=MUTED, linewidth=0.8, linestyle=DASHED, zorder=1)
    for row in rows:
        low, high = interval(row["right"], int(row["texts"]))
        x = 100 * row["confidence"]
        panel.plot([x, x], [100 * low, 100 * high], color=SERIES[0], linewidth=1.2, alpha=0.5)
    panel.plot(
        [100 * row["confidence"] for row in rows], [100 * row["right"] for row in rows], "o-",
        color=SERIES[0], markersize=5, mew=0, linewidth=0.8,
    )  # fmt: skip
    least = min((row["confidence"] for row in rows), default=0.0)
    panel.set(xlim=(max(0, 100 * least - 8), 102), ylim=(-2, 102))
    panel.set_xlabel("how sure the decision is (%)")
    panel.set_ylabel("right (%)")
    groups = "; ".join(
        f"{row['texts']:g} texts {100 * row['confidence']:.0f} % sure, {100 * row['right']:.0f} % right"
        for row in rows
    )
    caption = (
        "Each point is a group of held-out texts; its bar is what so many decisions allow 90 times in 100. On the dashed line "
        "probabilities hold; below it they promise too much."
    )
    return Plot(title, to_svg(figure, identity, title, f"{caption} {groups}."), caption)


def labels_plot(identity: str, curve: Mapping[str, Any]) -> Plot:
    """Return the held-out accuracy by the number of labels that the decisions were trained on, with its error, and chance.

    Args:
        identity: of the plot.
        curve: ``points`` and ``chance`` of a learning curve, as plain data.
    """
    title = "Accuracy by the number of labels"
    points, chance = curve["points"], 100 * curve["chance"]
    figure, (panel,) = new_figure([2.4], left=0.55, right=0.3)
    for point in points:
        ends = [100 * (point["accuracy"] + side * point["error"]) for side in (-1, 1)]
        panel.plot([point["trained"]] * 2, ends, color=SERIES[0], linewidth=1.2, alpha=0.5)
    panel.plot(
        [point["trained"] for point in points], [100 * point["accuracy"] for point in points], "o-",
        color=SERIES[0], markersize=5, mew=0,
    )  # fmt: skip
    panel.axhline(chance, color=INK, linewidth=0.8, linestyle=DASHED, zorder=0.9)
    panel.annotate(
        "chance",
        (1, chance),
        (-2, 3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        color=MUTED,
    )
    lowest = min(100 * (point["accuracy"] - point["error"]) for point in points)
    panel.set_ylim(max(-2, min(chance, lowest) - 6), 102)
    panel.set_xlim(0, 1.06 * points[-1]["trained"])
    panel.set_xlabel("labels that a decision was trained on")
    panel.set_ylabel("held-out accuracy (%)")
    caption = (
        "Parts of the labels, and all of them; a bar is a standard error each way. "
        f"{sum(point['draws'] for point in points[:-1])} parts of the texts were drawn, each fitted as a file of its own."
    )
    numbers = "; ".join(
        f"{point['labels']:.0f} labels: {100 * point['accuracy']:.1f} ± {100 * point['error']:.1f} %"
        for point in points
    )
    return Plot(
        title, to_svg(figure, identity, title, f"{caption} {numbers}; chance {chance:.1f} %."), caption
    )
