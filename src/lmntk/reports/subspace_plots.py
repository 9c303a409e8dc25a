"""Subspaces in pictures: distance against rank, held-out accuracy against size, and the kernel's shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lmntk.reports.drawing import INK, MUTED, SERIES, Plot, add_key, new_figure, room_for, short, to_svg

Row = Mapping[str, Any]
MARKERS = "osD^vP"


def distance_plot(identity: str, rows: Sequence[Row]) -> Plot | None:
    """Return the distance to the kernel of all parameters against LoRA's rank, a line a target; None without LoRA."""
    targets = _targets(rows)
    if not targets:
        return None
    figure, (panel,) = new_figure([2.2], left=0.6, key=True)
    handles: list[Any] = []
    said: list[str] = []
    for number, target in enumerate(targets):
        own = sorted((row for row in rows if row["target"] == target), key=lambda row: int(row["rank"]))
        ranks, values = [row["rank"] for row in own], [row["distance"] for row in own]
        deviations = [row["distance_deviation"] or 0.0 for row in own]
        handles.append(
            panel.errorbar(ranks, values, deviations, capsize=2, label=target, **_look(number, "-"))
        )
        said += [
            f"{row['name']}: {row['distance']:.3f} ± {deviation:.3f}"
            for row, deviation in zip(own, deviations, strict=True)
        ]
    every = sorted({row["rank"] for row in rows if row["rank"] is not None})
    panel.set_xscale("log", base=2)
    panel.set_xticks(every, [str(rank) for rank in every])
    panel.minorticks_off()
    panel.set_ylim(bottom=0)
    panel.set_xlabel("rank of LoRA")
    panel.set_ylabel("distance")
    add_key(figure, handles, 0.6)
    title = "Distance to the kernel of all parameters"
    caption = (
        "After the best scale; bars: standard deviation over the random starts. Where a line is flat, a larger rank "
        "brings nothing: what is missed are the weights that are not adapted."
    )
    return Plot(title, to_svg(figure, identity, title, f"{caption} {'; '.join(said)}."), caption)


def accuracy_plot(identity: str, rows: Sequence[Row], taken: str | None) -> Plot | None:
    """Return held-out accuracy against the count of trained numbers, the taken one ringed; None where none was held out."""
    shown = [row for row in rows if row["accuracy"] is not None]
    if not shown:
        return None
    targets = _targets(shown)
    figure, (panel,) = new_figure([2.2], left=0.6, key=bool(targets))
    handles: list[Any] = []
    said: list[str] = []
    for number, target in enumerate([*targets, None]):
        own = [row for row in shown if (row["target"] if row["rank"] is not None else None) == target]
        own.sort(key=lambda row: int(row["parameters"]))
        place = [row["parameters"] for row in own], [100 * row["accuracy"] for row in own]
        errors = [100 * (row["accuracy_error"] or 0.0) for row in own]
        if target is None:
            panel.errorbar(*place, errors, fmt="o", color=MUTED, markersize=3.5, elinewidth=0.8, mew=0)
            for row, x, y, error in zip(own, *place, errors, strict=True):
                panel.annotate(
                    short(row["name"], 16), (x, y + error), (0, 3), textcoords="offset points", color=INK,
                    ha="right" if x == max(each["parameters"] for each in shown) else "center",
                )  # fmt: skip
        else:
            handles.append(panel.errorbar(*place, errors, label=target, **_look(number, "-")))
        said += [
            f"{row['name']}: {y:.1f} ± {error:.1f}"
            for row, y, error in zip(own, place[1], errors, strict=True)
        ]
    ring = next((row for row in shown if row["name"] == taken), None)
    if ring is not None:
        spot = [ring["parameters"]], [100 * ring["accuracy"]]
        panel.plot(*spot, "o", color=INK, markersize=11, mfc="none", mew=1.2)
    panel.set_xscale("log")
    sizes = [row["parameters"] for row in shown]
    powers = [10**power for power in range(13) if min(sizes) / 2 <= 10**power <= 2 * max(sizes)]
    panel.set_xticks(powers, [_count(power) for power in powers])
    panel.minorticks_off()
    panel.set_xlabel("numbers that train")
    panel.set_ylabel("held-out accuracy (%)")
    if handles:
        add_key(figure, handles, 0.6)
    title = "Held-out accuracy against size"
    caption = (
        "Bars: one standard error over the texts; the candidates share the texts, so their differences are known better "
        "than each of them."
    ) + ("" if ring is None else f" Ringed: {taken}.")
    return Plot(title, to_svg(figure, identity, title, f"{caption} {'; '.join(said)}."), caption)


def share_plot(identity: str, shares: Mapping[str, float]) -> Plot | None:
    """Return each type's and each layer's share of the kernel's trace, as bars."""
    by_kind = {
        kind: [
            (name.removeprefix(f"{kind}: "), 100 * share)
            for name, share in shares.items()
            if name.startswith(f"{kind}: ")
        ]
        for kind in ("type", "layer")
    }
    by_kind["type"].sort(key=lambda item: -item[1])
    by_kind = {kind: values for kind, values in by_kind.items() if values}
    if not by_kind:
        return None
    left = room_for(short(name, 18) for values in by_kind.values() for name, _ in values)
    figure, panels = new_figure(
        [0.17 * len(values) + 0.06 for values in by_kind.values()], left=left, titled=True
    )
    for number, (panel, (kind, values)) in enumerate(zip(panels, by_kind.items(), strict=True)):
        panel.barh(range(len(values)), [share for _, share in values], height=0.7, color=SERIES[number])
        panel.set_yticks(range(len(values)), [short(name, 18) for name, _ in values])
        panel.set_ylim(len(values) - 0.4, -0.6)
        panel.grid(axis="y", visible=False)
        panel.set_title(f"by {kind}", color=MUTED)
    panels[-1].set_xlabel("share of the kernel's trace (%)")
    title = "What the kernel is made of"
    said = "; ".join(f"{name}: {share:.1f} %" for values in by_kind.values() for name, share in values)
    caption = (
        "The share of all parameters' kernel that each part brings, over the texts. A part with a small share changes "
        "little of what is learnt first."
    )
    return Plot(title, to_svg(figure, identity, title, f"{caption} {said}."), caption)


def _count(number: int) -> str:
    """Return a power of ten in at most five characters, such as ``100 k``."""
    for size, letter in ((10**9, " G"), (10**6, " M"), (10**3, " k")):
        if number >= size:
            return f"{number // size}{letter}"
    return str(number)


def _targets(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["target"] for row in rows if row["rank"] is not None))


def _look(number: int, line: str) -> dict[str, Any]:
    return {
        "color": SERIES[number % len(SERIES)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": line,
        "markersize": 3.5,
        "mew": 0,
        "elinewidth": 0.8,
    }
