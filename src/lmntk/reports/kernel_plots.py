"""A kernel in pictures: its matrix before and after fine-tuning, its spectrum beside the labels, and each group's share of its trace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from lmntk.reports.drawing import (
    INK,
    MUTED,
    SERIES,
    WIDTH,
    Plot,
    figure_text,
    new_figure,
    room_for,
    short,
    to_svg,
)

MOST_GROUPS = 40
SMALLEST = 1e-12  # of the largest eigenvalue: what is below is rounding


def matrix_plot(identity: str, kernels: Mapping[str, Any]) -> Plot:
    """Return one heatmap, or two with one colour scale, of kernels [n, n] sorted by label, centred so that blocks show.

    What all texts share is most of a kernel, and a text's own entry is its largest: without the mean, and with colours that end at the
    largest entry of two different texts, the rest can be seen.
    """
    plain = {
        name: np.asarray(kernels[name], dtype=float) for name in ("before", "after") if kernels.get(name)
    }
    sides = {name: centred(side) for name, side in plain.items()}
    labels = list(kernels.get("labels") or ())
    off_diagonal = ~np.eye(len(next(iter(sides.values()))), dtype=bool)
    largest = max(float(np.abs(side[off_diagonal]).max(initial=0.0)) for side in sides.values()) or 1.0
    runs = [(label, len(list(run))) for label, run in groupby(labels)]
    edges = np.cumsum([0, *(size for _, size in runs)])
    middles, names = (edges[1:] + edges[:-1] - 1) / 2, [short(label, 10) for label, _ in runs]
    left, right, top, below = room_for(names) + 0.1, 0.72, 0.24, 0.42
    side_length = (WIDTH - left - right - 0.15 * (len(sides) - 1)) / len(sides)
    side_length = min(side_length, 2.6)
    height = top + side_length + below
    figure, _ = new_figure([height - 0.46])  # for its width; the panels stand side by side
    figure.clear()
    for number, (name, side) in enumerate(sides.items()):
        place = (
            (left + number * (side_length + 0.15)) / WIDTH,
            below / height,
            side_length / WIDTH,
            side_length / height,
        )
        panel = figure.add_axes(place)
        picture = panel.imshow(
            side, interpolation="none", cmap="PuOr", vmin=-largest, vmax=largest
        )  # reads the same to colour-blind eyes
        if len(sides) > 1:
            panel.set_title("before fine-tuning" if name == "before" else "after")
        panel.grid(visible=False)
        panel.spines[:].set_visible(False)
        for edge in edges[1:-1] - 0.5:
            panel.axhline(edge, color="#808080", linewidth=0.5)
            panel.axvline(edge, color="#808080", linewidth=0.5)
        panel.set_xticks(middles, names)
        panel.set_yticks(middles, [] if number else names)
        panel.set_xlabel("training text, by class" if labels else "training text")
    x = left + len(sides) * (side_length + 0.15) - 0.05
    bar = figure.colorbar(
        picture, cax=figure.add_axes((x / WIDTH, below / height, 0.09 / WIDTH, side_length / height))
    )
    bar.outline.set_visible(False)
    bar.ax.set_title("K", color=MUTED)
    bar.ax.locator_params(axis="y", nbins=5)
    caption = _matrix_caption(plain, sides, labels)
    title = "Kernel before and after fine-tuning" if len(sides) > 1 else "Kernel of the training texts"
    return Plot(title, to_svg(figure, identity, title, caption), caption)


def centred(kernel: np.ndarray) -> np.ndarray:
    """Return a kernel [n, n] less the means of its rows and columns: that of the gradients less their mean."""
    rows, columns = kernel.mean(axis=0, keepdims=True), kernel.mean(axis=1, keepdims=True)
    found: np.ndarray = kernel - rows - columns + kernel.mean()
    return found


def _matrix_caption(
    plain: Mapping[str, np.ndarray], sides: Mapping[str, np.ndarray], labels: Sequence[Any]
) -> str:
    sentences = []
    n = len(next(iter(sides.values())))
    same = (
        np.equal.outer(np.asarray(labels), np.asarray(labels)) if len(labels) == n else np.ones((n, n), bool)
    )
    for name, side in sides.items():
        inside, outside = side[same & ~np.eye(n, dtype=bool)], side[~same]
        where = "" if len(sides) == 1 else f"{name} fine-tuning "
        if inside.size and outside.size:
            sentences.append(
                f"{where}two texts of one class share {figure_text(inside.mean())} on average, of two classes {figure_text(outside.mean())}"
            )
        else:
            sentences.append(f"{where}the mean entry is {figure_text(plain[name].mean())} before centring")
    if len(sides) > 1:
        before, after = plain["before"], plain["after"]
        relative = np.abs(after - before)[before != 0] / np.abs(before)[before != 0]
        if relative.size:
            sentences.append(f"an entry moves by {relative.mean():.2f} of itself on average before centring")
    sees = "In a kernel that sees the task the blocks on the diagonal stand out."
    return f"The sgd kernel of {n} training texts, class logits summed, less what all have in common: {'; '.join(sentences)}. {sees}"


def spectrum_plot(identity: str, spectrum: Mapping[str, Any]) -> Plot:
    """Return the eigenvalues, largest first, and the labels' share along the leading eigenvectors, added up."""
    eigenvalues = np.asarray(spectrum["eigenvalues"], dtype=float)
    alignment = np.asarray(spectrum.get("alignment") or [], dtype=float)
    order = np.argsort(-eigenvalues, kind="stable")
    eigenvalues = eigenvalues[order]
    positive = eigenvalues > SMALLEST * max(eigenvalues.max(), 0)
    has_labels = len(alignment) == len(eigenvalues)
    figure, panels = new_figure([1.25, 1.25] if has_labels else [1.6], titled=True)
    ranks = np.arange(1, len(eigenvalues) + 1)
    panels[0].plot(
        ranks[positive], eigenvalues[positive], "o-", color=SERIES[0], markersize=3, mew=0, linewidth=0.8
    )
    panels[0].set_yscale("log")
    _plain_logs(panels[0].yaxis)
    panels[0].set_title("eigenvalue of K")
    whole = eigenvalues[positive].sum()
    top = eigenvalues[0] / whole if whole > 0 else 0.0
    caption = f"{int(positive.sum())} of {len(eigenvalues)} eigenvalues are above rounding; the largest has {100 * top:.0f} % of their sum."
    if has_labels:
        share = 100 * np.cumsum(alignment[order])
        panels[1].plot(ranks, share, drawstyle="steps-post", color=SERIES[1], label="of the labels")
        panels[1].plot(
            ranks,
            100 * ranks / len(ranks),
            color=MUTED,
            linewidth=0.8,
            linestyle=(0, (3, 3)),
            label="of random labels",
        )
        panels[1].set_ylim(0, 104)
        panels[1].set_title("share along the leading eigenvectors (%)")
        panels[1].legend(loc="lower right")
        tenth = max(1, round(len(ranks) / 10))
        half = int(np.argmax(share >= 50)) + 1 if share[-1] >= 50 else None
        random = 100 * tenth / len(ranks)
        caption += f" The first {tenth} eigenvectors hold {share[tenth - 1]:.0f} % of the centred labels (random labels: {random:.0f} %)"
        caption += f"; half of them is reached at eigenvector {half}." if half else "."
        caption += (
            " The further the curve rises above the dashed line, the faster the kernel learns the task."
        )
    panels[-1].set_xlabel("eigenvector, largest eigenvalue first")
    return Plot(
        "Spectrum and alignment with the labels",
        to_svg(figure, identity, "Spectrum of the training kernel", caption),
        caption,
    )


def _plain_logs(axis: Any) -> None:
    """Write a logarithmic axis's numbers as 0.01 and 1e-06: mathematical typesetting is off."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(numticks=6))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def group_plot(identity: str, groups: Mapping[str, float]) -> Plot:
    """Return each parameter group's share of the kernel's trace, as bars; groups beyond ``MOST_GROUPS`` are added up."""
    shares = [(name, 100 * share) for name, share in groups.items()]
    if len(shares) > MOST_GROUPS:
        shares = [
            *shares[: MOST_GROUPS - 1],
            (f"{len(shares) - MOST_GROUPS + 1} further", sum(s for _, s in shares[MOST_GROUPS - 1 :])),
        ]
    names = [short(name, 24) for name, _ in shares]
    figure, (panel,) = new_figure([0.17 * len(shares) + 0.03], left=room_for(names))
    panel.barh(range(len(shares)), [share for _, share in shares], color=SERIES[0], height=0.62)
    for place, (_, share) in enumerate(shares):
        panel.annotate(
            f"{share:.1f}",
            (max(share, 0), place),
            (3, 0),
            textcoords="offset points",
            va="center",
            color=INK,
            fontsize=7,
        )
    panel.set_yticks(range(len(shares)), names)
    panel.set_ylim(len(shares) - 0.4, -0.6)
    panel.margins(x=0.12)
    panel.grid(axis="y", visible=False)
    panel.set_xlabel("share of the kernel's trace (%)")
    largest = sorted(shares, key=lambda one: -one[1])[:3]
    caption = "Where the kernel comes from: " + ", ".join(f"{name} {share:.1f} %" for name, share in largest)
    caption += (
        " have the largest shares of the sgd kernel's trace."
        if len(largest) > 1
        else " of the sgd kernel's trace."
    )
    numbers = f"{caption} All: {', '.join(f'{name} {share:.1f} %' for name, share in shares)}."
    return Plot(
        "Share of the kernel by parameter group",
        to_svg(figure, identity, "Share of the kernel by parameter group", numbers),
        caption,
    )
