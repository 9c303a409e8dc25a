"""The plots of single splits: which splits are shown close up, and what of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lmntk.errors import UserError
from lmntk.reports.drawing import Plot
from lmntk.reports.kernel_facts import facts_of_kernel
from lmntk.reports.kernel_plots import group_plot, matrix_plot, spectrum_plot
from lmntk.reports.training_plots import curve_plot, emulation_plot, logit_plot, trajectory_plot
from lmntk.runs.reading import LINEARIZED, Run

MOST = 16  # splits close up on one page: 16 times some 80 kB


@dataclass(frozen=True)
class CloseUp:
    """One split, and one way of fine-tuning it where there is one."""

    run: str
    title: str
    k: int
    seed: int
    mode: str
    method: str
    plots: Sequence[Plot]


@dataclass(frozen=True)
class _Candidate:
    run: Run
    split: str
    task: str
    k: int
    seed: int
    mode: str
    method: str = ""
    diagnosis: Mapping[str, Any] = field(default_factory=dict)
    trainings: Sequence[tuple[str, Mapping[str, Any]]] = ()

    @property
    def rank(self) -> tuple[Any, ...]:
        """Sorts what is worth seeing first: diagnosed, fine-tuned, the largest k, the prompt, SGD, the first split."""
        return (
            not self.diagnosis,
            not self.trainings,
            -self.k,
            self.mode != "prompt",
            not self.method.startswith("sgd"),
            self.method,
            self.seed,
        )


def close_ups(runs: Sequence[Run], titles: Mapping[str, str], notes: list[str]) -> tuple[list[CloseUp], int]:
    """Return the splits shown close up, and how many there would have been of a split each.

    Of each task, k, mode and method one split; of many, tasks take turns until there are ``MOST``. Drawn within ``drawing.style``.
    """
    found = [candidate for run in runs for candidate in _first_splits(_candidates(run))]
    turns: dict[tuple[str, str], int] = {}
    ordered = []
    for candidate in sorted(found, key=lambda one: one.rank):
        place = turns[candidate.run.name, candidate.task] = (
            turns.get((candidate.run.name, candidate.task), -1) + 1
        )
        ordered.append((place, candidate))
    chosen = [candidate for _, candidate in sorted(ordered, key=lambda one: one[0])[:MOST]]
    order = {id(candidate): place for place, candidate in enumerate(found)}
    made = []
    for number, one in enumerate(sorted(chosen, key=lambda candidate: order[id(candidate)])):
        plots = _plots(one, f"c{number}", notes)
        if plots:
            run = one.run.name if len(runs) > 1 else ""
            made.append(
                CloseUp(run, titles.get(one.task, one.task), one.k, one.seed, one.mode, one.method, plots)
            )
    return made, len(found)


def _candidates(run: Run) -> list[_Candidate]:
    trainings: dict[tuple[str, str], list[tuple[str, Mapping[str, Any]]]] = {}
    for one in run.finetunings:
        trainings.setdefault((one["split"], str(one["method"]).replace(LINEARIZED, "")), []).append(
            (str(one["method"]), one)
        )
    diagnoses = {(one["split"], str(one["method"])): one for one in run.diagnoses}
    made = []
    for key in dict.fromkeys([*diagnoses, *trainings]):
        some = diagnoses.get(key) or trainings[key][0][1]
        own = sorted(trainings.get(key, ()), key=lambda pair: LINEARIZED in pair[0])
        place = (some["split"], some["task"], some["k"], some["seed"], some["mode"])
        made.append(_Candidate(run, *place, key[1], diagnoses.get(key, {}), own))
    covered = {one.split for one in made}
    for name, split in run.splits.items():
        first = split["rows"][0]
        if name not in covered and run.kernel_folders(name):
            made.append(_Candidate(run, name, first["task"], first["k"], first["seed"], first["mode"]))
    tasks = list(dict.fromkeys(row["task"] for row in run.rows))
    order = {task: number for number, task in enumerate(tasks)}
    return sorted(
        made,
        key=lambda one: (
            order.get(one.task, len(order)), one.task, one.k, one.mode != "prompt", not one.method.startswith("sgd"), one.method, one.seed,
        ),
    )  # fmt: skip


def _first_splits(candidates: Sequence[_Candidate]) -> list[_Candidate]:
    first: dict[tuple[Any, ...], _Candidate] = {}
    for one in candidates:
        first.setdefault((one.task, one.k, one.mode, one.method), one)
    return list(first.values())


def _plots(one: _Candidate, identity: str, notes: list[str]) -> list[Plot]:
    """Return the plots of all parts that are there; a part that is not as it should be is named in ``notes`` and left out."""
    parts = dict(one.diagnosis)
    if not (parts.get("spectrum") and parts.get("groups") and parts.get("kernels")):
        kernel = one.run.kernel(one.split)
        try:
            known = (
                {}
                if kernel is None
                else facts_of_kernel(kernel, one.run.splits.get(one.split, {}).get("train_labels"))
            )
        except UserError as error:
            known = {}
            notes.append(f"the kernel of {one.split} is not drawn: {error}.")
        parts = known | {name: value for name, value in parts.items() if value}
    names = one.run.splits.get(one.split, {}).get("labels") or ()
    parts |= {name: _with_names(parts[name], names) for name in ("logits", "kernels") if parts.get(name)}
    metric = str(next((training.get("metric") for _, training in one.trainings), "accuracy"))
    draw: list[tuple[str, Callable[[], Plot | None]]] = [
        ("logits", lambda: logit_plot(f"{identity}-logits", parts["logits"])),
        ("curves", lambda: curve_plot(f"{identity}-curves", one.trainings, metric)),
        ("emulation", lambda: emulation_plot(f"{identity}-emulation", parts["emulation"])),
        ("trajectory", lambda: trajectory_plot(f"{identity}-trajectory", parts["trajectory"])),
        ("kernels", lambda: matrix_plot(f"{identity}-kernels", parts["kernels"])),
        ("spectrum", lambda: spectrum_plot(f"{identity}-spectrum", parts["spectrum"])),
        ("groups", lambda: group_plot(f"{identity}-groups", parts["groups"])),
    ]
    plots = []
    for name, action in draw:
        if not (one.trainings if name == "curves" else parts.get(name)):
            continue
        try:
            plot = action()
        except (
            KeyError,
            IndexError,
            TypeError,
            ValueError,
            AttributeError,
        ) as error:  # another version's file
            notes.append(
                f"{name} of {one.split}, {one.method or 'kernel'}: not as expected ({type(error).__name__}: {error}), so it is not drawn."
            )
            continue
        if plot is not None:
            plots.append(plot)
    return plots


def _with_names(part: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return a part whose labels are the classes' names, where these are known."""
    labels = part.get("labels") or ()
    known = names and all(isinstance(label, int) and label < len(names) for label in labels)
    return {**part, "labels": [names[label] for label in labels]} if known else dict(part)
