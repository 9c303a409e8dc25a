"""Training in pictures: linearized beside real logits, learning curves, the emulator beside real training, and how far features move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lmntk.reports.drawing import INK, MUTED, SERIES, Plot, add_key, figure_text, new_figure, short, to_svg

MOST_POINTS = 300
MOST_EMULATED = 6
DASHED = (0, (4, 2))


def logit_plot(identity: str, logits: Mapping[str, Any]) -> Plot | None:
    """Return the scatter of linearized against real logits [m, c] after fine-tuning, a colour a class, with the diagonal.

    None of a training that diverged.
    """
    if logits.get("fine_tuned") is None:
        return None
    real, linear = (
        np.asarray(logits[name], dtype=float).reshape(len(logits[name]), -1)
        for name in ("fine_tuned", "linearized")
    )
    m, c = real.shape
    labels = np.asarray(logits.get("labels") or [0] * m)
    kept = np.unique(np.linspace(0, m - 1, min(m, max(1, MOST_POINTS // c))).round().astype(int))
    low, high = min(real.min(), linear.min()), max(real.max(), linear.max())
    edge = 0.05 * (high - low or 1.0)
    values = sorted(set(labels.tolist()), key=str)
    keyed = 1 < len(values) <= 8
    figure, (panel,) = new_figure([2.9], left=0.6, right=0.5, key=keyed)
    panel.plot(
        [low - edge, high + edge],
        [low - edge, high + edge],
        color=MUTED,
        linewidth=0.8,
        linestyle=DASHED,
        zorder=1,
    )
    handles = []
    for number, label in enumerate(values):
        chosen = kept[labels[kept] == label]
        style: dict[str, Any] = {
            "color": SERIES[number % len(SERIES)],
            "markersize": 3.2,
            "mew": 0,
            "alpha": 0.65,
        }
        marker = "osD^vP"[number % 6]
        shown = short(label, 12) if isinstance(label, str) else f"class {label}"
        name = shown if len(values) > 1 else "a logit"
        handles += panel.plot(real[chosen].ravel(), linear[chosen].ravel(), marker, label=name, **style)
    panel.set(xlim=(low - edge, high + edge), ylim=(low - edge, high + edge), aspect="equal")
    panel.set_xlabel("logit of the fine-tuned model")
    panel.set_ylabel("logit of the linearized model")
    if keyed:
        add_key(figure, handles, 0.6)
    spread = np.sqrt(((real - real.mean()) ** 2).mean())
    error = np.sqrt(((linear - real) ** 2).mean())
    agree = float((_classes(real) == _classes(linear)).mean())
    caption = f"On the diagonal the linearization is exact. Over {m} test texts its root mean square error is {figure_text(error)}"
    caption += f", {figure_text(100 * error / spread)} % of the real logits' spread" if spread > 0 else ""
    caption += f"; it gives the same class for {100 * agree:.0f} % of them."
    caption += f" Drawn are {len(kept)} texts, evenly taken." if len(kept) < m else ""
    return Plot(
        "Linearized against real logits",
        to_svg(figure, identity, "Linearized against real logits", caption),
        caption,
    )


def _classes(logits: np.ndarray) -> np.ndarray:
    return logits[:, 0] > 0 if logits.shape[1] == 1 else logits.argmax(1)


def curve_plot(identity: str, trainings: Sequence[tuple[str, Mapping[str, Any]]], metric: str) -> Plot | None:
    """Return loss and dev metric over the steps, of each training's chosen run strong and of its other finished runs faint.

    None without points.
    """
    drawn = [
        (name, index, one, index == training.get("chosen"))
        for name, training in trainings
        for index, one in enumerate(training["runs"])
    ]
    drawn = [
        entry
        for entry in drawn
        if entry[2].get("curve") and (entry[3] or entry[2].get("status") != "diverged")
    ]
    if not drawn:
        return None
    names = list(dict.fromkeys(name for name, *_ in drawn))
    figure, (upper, lower) = new_figure([1.2, 1.2], titled=True, key=len(names) > 1)
    for name, _, one, is_chosen in sorted(drawn, key=lambda entry: entry[3]):
        line: dict[str, Any] = {
            "color": SERIES[names.index(name) % len(SERIES)],
            "linestyle": "-" if names.index(name) == 0 else DASHED,
            "linewidth": 1.6 if is_chosen else 0.6,
            "alpha": 1.0 if is_chosen else 0.35,
        }
        for panel, part, scale in ((upper, "loss", 1), (lower, "dev", 100)):
            points = [
                (point["step"], scale * point[part]) for point in one["curve"] if point.get(part) is not None
            ]
            if points:
                panel.plot(*zip(*points, strict=True), **line)
    losses = [
        point["loss"]
        for *_, one, is_chosen in drawn
        for point in one["curve"]
        if is_chosen and point.get("loss") is not None
    ]
    if losses and max(losses) > 0:  # a setting that nearly diverged would flatten the chosen one
        upper.set_ylim(0, min(upper.get_ylim()[1], 2 * max(losses)))
    upper.set_title("training loss")
    lower.set_title("dev F1 (x 100)" if metric == "f1" else "dev accuracy (%)")
    lower.set_xlabel("step")
    if len(names) > 1:
        handles = [
            upper.plot(
                [], [], color=SERIES[number], linestyle="-" if number == 0 else DASHED, label=short(name, 34)
            )[0]
            for number, name in enumerate(names[: len(SERIES)])
        ]
        add_key(figure, handles, columns=2)
    sentences = [_sentence(name, training) for name, training in trainings]
    faint = sum(not chosen for *_, chosen in drawn)
    caption = " ".join(sentences) + (f" Faint: {faint} other settings of the grid." if faint else "")
    return Plot("Learning curves", to_svg(figure, identity, "Learning curves", caption), caption)


def _sentence(name: str, training: Mapping[str, Any]) -> str:
    runs = training["runs"]
    diverged = sum(one.get("status") == "diverged" for one in runs)
    chosen = training.get("chosen")
    if chosen is None or not 0 <= chosen < len(runs):
        text = f"{name}: no run was chosen"
    else:
        one = runs[chosen]
        text = f"{name}: learning rate {one['learning_rate']:g}, batch {one['batch_size']}"
        if one.get("dev") is not None and one.get("best_step") is not None:
            text += f", best on dev at step {one['best_step']} of {one['steps']} with {100 * one['dev']:.1f}"
        if training.get("test") is not None:
            text += f", test {100 * training['test']:.1f}"
    return text + (f"; {diverged} of {len(runs)} runs diverged." if diverged else ".")


def emulation_plot(identity: str, emulation: Mapping[str, Any]) -> Plot:
    """Return a few dev texts' logits [steps, n, c] along training, the real ones solid, the kernel's emulation dashed."""
    steps = np.asarray(emulation["steps"], dtype=float)
    real, emulated = (
        np.asarray(emulation[name], dtype=float).reshape(len(steps), -1) for name in ("real", "emulated")
    )
    kept = np.unique(np.linspace(0, real.shape[1] - 1, min(real.shape[1], MOST_EMULATED)).round().astype(int))
    figure, (panel,) = new_figure([2.2], left=0.6, key=True)
    for number, column in enumerate(kept):
        panel.plot(steps, real[:, column], color=SERIES[number], linewidth=1.2)
        panel.plot(steps, emulated[:, column], color=SERIES[number], linewidth=1.2, linestyle=(0, (1.5, 1.5)))
    styles = (("real training", "-"), ("emulated by the kernel", (0, (1.5, 1.5))))
    handles = [
        panel.plot([], [], color=INK, linewidth=1.2, linestyle=line, label=name)[0] for name, line in styles
    ]
    add_key(figure, handles, 0.6)
    panel.set_xlabel("step")
    panel.set_ylabel("logit")
    caption = f"{len(kept)} logits of dev texts, a colour each: "
    lost = ~np.isfinite(emulated).all(1)
    if lost.any():
        caption += f"by the kernel training grows without bound, from step {steps[lost.argmax()]:g} on beyond any number"
    else:
        worst = np.abs(emulated - real)[:, kept].max()
        caption += f"of these the emulation is never further than {figure_text(worst)} from real training"
    if isinstance(error := emulation.get("error"), float):
        caption += f"; of all {emulation.get('texts', 'the')} dev texts never further than {100 * error:.1f} % of their logits' range"
    caption += "."
    return Plot(
        "Real and emulated training", to_svg(figure, identity, "Real and emulated training", caption), caption
    )


TRACKS = (
    ("logit_error", "error of the linearized logits"),
    ("kernel_distance", "distance of the kernel from its start, relative"),
    ("gradient_distance", "distance of the gradients from their start, relative"),
)


def trajectory_plot(identity: str, trajectory: Sequence[Mapping[str, Any]]) -> Plot | None:
    """Return how the linearization's error and the kernel's distance grow along training; None where nothing was measured."""
    tracks = [
        (name, title) for name, title in TRACKS if any(point.get(name) is not None for point in trajectory)
    ]
    if not tracks:
        return None
    figure, panels = new_figure([0.8] * len(tracks), titled=True)
    ends = []
    for number, (panel, (name, title)) in enumerate(zip(panels, tracks, strict=True)):
        points = [(point["step"], point[name]) for point in trajectory if point.get(name) is not None]
        panel.plot(*zip(*points, strict=True), "o-", color=SERIES[number], markersize=3, mew=0)
        panel.set_title(title)
        panel.set_ylim(0, 1.1 * max(value for _, value in points) or 1.0)
        if name == "kernel_distance" and panel.get_ylim()[1] > 2:
            panel.axhline(2.0, color=MUTED, linewidth=0.8, linestyle=DASHED)
        ends.append(f"{name.replace('_', ' ')} {figure_text(points[-1][1])}")
    panels[-1].set_xlabel("step")
    caption = f"At step {max(point['step'] for point in trajectory)}: {', '.join(ends)}. Flat curves near zero are kernel behaviour"
    caption += (
        "; the third test allows a kernel distance of 2."
        if any(name == "kernel_distance" for name, _ in tracks)
        else "."
    )
    return Plot(
        "Along training", to_svg(figure, identity, "How far the model leaves its kernel", caption), caption
    )
