"""The accuracy of each method: a row a method, a colour a k, a dot a split, their mean and deviation over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lmntk.reports.drawing import INK, MUTED, SERIES, Plot, add_key, new_figure, room_for, short, to_svg
from lmntk.reports.tables import ordered_methods
from lmntk.solvers.selection import aggregate

AXIS = {"accuracy": "test accuracy (%)", "f1": "test F1 of the second class (x 100)"}

LONGEST = 27  # characters of a method's name that leave half of the width to the plot


def accuracy_plot(identity: str, title: str, rows: Sequence[Mapping[str, Any]]) -> Plot:
    """Return the plot of one task's rows; cost: a mark a row."""
    modes = list(dict.fromkeys(row["mode"] for row in rows))
    ks = sorted({row["k"] for row in rows})
    methods = {mode: ordered_methods([row for row in rows if row["mode"] == mode]) for mode in modes}
    step = 0.19 if len(ks) == 1 else 0.08 + 0.1 * len(ks)
    every = [method for mode in modes for method in methods[mode]]
    is_long = any(len(method) > LONGEST for method in every)
    names = {
        method: short(method.replace("fine-tuning", "FT") if is_long else method, LONGEST) for method in every
    }
    left = room_for(names.values())
    heights = [step * len(methods[mode]) + 0.04 for mode in modes]
    figure, panels = new_figure(heights, left=left, titled=len(modes) > 1, key=len(ks) > 1)
    sentences = []
    for panel, mode in zip(panels, modes, strict=True):
        for place, method in enumerate(methods[mode]):
            for number, k in enumerate(ks):
                values = [
                    row["test"] for row in rows if (row["mode"], row["method"], row["k"]) == (mode, method, k)
                ]
                if not values:
                    continue
                summary = aggregate(values)
                colour = SERIES[number % len(SERIES)]
                y = place + (number - (len(ks) - 1) / 2) * 0.26 if len(ks) > 1 else place
                if len(values) > 1:
                    panel.plot(
                        [100 * value for value in values],
                        [y] * len(values),
                        "o",
                        color=colour,
                        markersize=3,
                        alpha=0.4,
                        mew=0,
                    )
                    panel.plot(
                        [summary.mean - summary.std, summary.mean + summary.std],
                        [y, y],
                        color=colour,
                        linewidth=1.2,
                    )
                panel.plot([summary.mean], [y], "D", color=colour, markersize=4.5, mew=0)
                spread = f" ({summary.std:.1f})" if len(values) > 1 else ""
                sentences.append(f"{method}, {mode}, k = {k}: {summary.mean:.1f}{spread}")
        panel.set_yticks(range(len(methods[mode])), [names[method] for method in methods[mode]])
        panel.set_ylim(len(methods[mode]) - 0.4, -0.6)
        panel.spines["left"].set_visible(False)
        panel.grid(axis="y", visible=False)
        if len(modes) > 1:
            panel.set_title(f"{mode} mode" if mode in ("prompt", "head") else short(mode), color=MUTED)
        before = [100 * row["test"] for row in rows if row["mode"] == mode and row["method"] == "zero-shot"]
        if before:
            panel.axvline(
                sum(before) / len(before), color=INK, linewidth=0.8, linestyle=(0, (3, 3)), zorder=0.9
            )
    panels[-1].set_xlabel(AXIS.get(rows[0]["metric"], short(rows[0]["metric"])))
    if len(ks) > 1:
        handles = [
            panels[0].plot(
                [], [], "D", color=SERIES[number % len(SERIES)], markersize=4.5, mew=0, label=f"k = {k}"
            )[0]
            for number, k in enumerate(ks)
        ]
        add_key(figure, handles, left)
    caption = _caption(rows, ks[-1]) + (
        " FT is fine-tuning." if any("FT" in name for name in names.values()) else ""
    )
    return Plot(
        title,
        to_svg(
            figure,
            identity,
            f"{title}: test metric by method",
            f"{caption} All means: {'; '.join(sentences)}.",
        ),
        caption,
    )


def _caption(rows: Sequence[Mapping[str, Any]], k: int) -> str:
    """Say what the best method, the fine-tuning and zero-shot reach at the largest k."""
    here = [row for row in rows if row["k"] == k]
    found = {
        key: aggregate([row["test"] for row in here if (row["method"], row["mode"]) == key])
        for key in dict.fromkeys((row["method"], row["mode"]) for row in here)
    }
    best = max(found, key=lambda key: found[key].mean)
    parts = [f"At k = {k} the highest mean is {found[best].mean:.1f}, of {best[0]} ({best[1]} mode)"]
    before = next((one for key, one in found.items() if key[0] == "zero-shot"), None)
    if before is not None and best[0] != "zero-shot":
        parts.append(f"zero-shot, the dashed line, is at {before.mean:.1f}")
    splits = len({row["seed"] for row in here})
    what = (
        "Diamonds are means over the splits, bars their standard deviation, dots the splits."
        if splits > 1
        else "One split."
    )
    return f"{'; '.join(parts)}. {what}"
