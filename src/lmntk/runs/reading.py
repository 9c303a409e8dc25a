"""What a run left in its folder, read into plain data for the page; what cannot be read is named, and left out."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmntk.errors import UserError
from lmntk.kernels.kernel import Kernel
from lmntk.runs.setups import of_one_setup
from lmntk.tasks import TASKS

FINETUNING_FORMAT = "lmntk finetuning 1"
DIAGNOSIS_FORMAT = "lmntk diagnosis 2"
LINEARIZED = " (linearized)"
COMMON = ("cell", "task", "k", "seed", "mode", "method")


@dataclass(frozen=True)
class Run:
    """One run's folder as plain data.

    Attributes:
        name: the folder's name, another one than those of the runs beside it.
        folder: where it is.
        experiment: the settings, as in configuration.json; empty where there is none.
        earlier: the settings of other runs of the model in the folder, the latest first.
        versions: of what computed it.
        rows: those of results.csv, of all finished splits.
        splits: the finished splits' results, by name.
        finetunings: the files of ``finetuning/``.
        diagnoses: the files of ``diagnosis/``.
        notes: what was left out, and why.
    """

    name: str
    folder: Path
    experiment: Mapping[str, Any] = field(default_factory=dict)
    earlier: Sequence[Mapping[str, Any]] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    rows: Sequence[Mapping[str, Any]] = ()
    splits: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    finetunings: Sequence[Mapping[str, Any]] = ()
    diagnoses: Sequence[Mapping[str, Any]] = ()
    notes: Sequence[str] = ()

    @property
    def model(self) -> str:
        """The model as the user named it, without the folders above it."""
        return Path(str(self.experiment.get("model", ""))).name

    def titles(self) -> dict[str, str]:
        """Returns the tasks' names in print, by name."""
        return {name: task.title for name, task in TASKS.items()}

    def kernel(self, split: str, formula: str = "sgd") -> Kernel | None:
        """Returns a split's kernel among its training texts, where it was kept and is that of the split's results."""
        path = self.folder / "kernels" / split / f"train-{formula}.safetensors"
        of = self.splits.get(split, {}).get("kernels")
        try:
            return Kernel.load(path, None if of is None else {"key": of}) if path.is_file() else None
        except UserError:
            return None


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Returns the runs in the folders, in their order.

    Raises:
        UserError: a folder that is not there, holds no run, or is named twice.
    """
    resolved = [folder.resolve() for folder in folders]
    for folder in resolved:
        if resolved.count(folder) > 1:
            raise UserError(f"run: {str(folder)!r} is named twice; name each folder once")
    return [_read_run(folder, name) for folder, name in zip(folders, _names(resolved), strict=True)]


def read_run(folder: Path) -> Run:
    """Returns the run in a folder.

    Raises:
        UserError: a folder that is not there, or holds no run.
    """
    return _read_run(folder, folder.resolve().name)


def _names(folders: Sequence[Path]) -> list[str]:
    """Returns the folders' shortest names that tell them apart."""
    depth = 1
    while True:
        names = ["/".join(folder.parts[-depth:]) for folder in folders]
        if len(set(names)) == len(names) or depth > max(len(folder.parts) for folder in folders):
            return names
        depth += 1


def _read_run(folder: Path, name: str) -> Run:
    if not folder.is_dir():
        raise UserError(f"run: no folder {str(folder)!r}; name one that `lmntk run` wrote")
    notes: list[str] = []
    configuration = _read(folder / "configuration.json")
    configuration = configuration if isinstance(configuration, dict) else {}
    experiment = configuration.get("experiment") or {}
    earlier = [one for one in configuration.get("earlier") or () if isinstance(one, dict)]
    place = _placing(experiment)
    latest = configuration.get("setups")
    latest = latest if isinstance(latest, list) else []
    splits = _current(list(_files(folder, "cells", _is_cell, notes)), folder, configuration.get("weights"), notes)
    others = {split["cell"] for _, split in _files(folder, "cells", _is_cell, [])} - set(splits)
    parts: dict[str, list[dict[str, Any]]] = {}
    for part, form in (("finetuning", FINETUNING_FORMAT), ("diagnosis", DIAGNOSIS_FORMAT)):
        found = [content for _, content in _files(folder, part, _has_format(form), notes)]
        current = [one for one in found if one["cell"] not in others and _is_of(one, splits.get(one["cell"]))]
        if len(current) < len(found):
            notes.append(
                f"{len(found) - len(current)} of {part} are of other weights, prompts, texts or trainings than the splits now, and left out."
            )
        parts[part] = _of_one_setup(sorted(current, key=place), latest, part, notes)
    if not splits and not any(parts.values()):
        raise UserError(f"run: {str(folder)!r} holds no finished split, fine-tuning or diagnosis; name a folder that `lmntk run` wrote")
    computed = [*splits.values(), *parts["finetuning"], *parts["diagnosis"]]
    versions: dict[str, str] = configuration.get("versions") or next((one["versions"] for one in computed if one.get("versions")), {})
    rows = [row for split in sorted(splits.values(), key=lambda one: place(one["rows"][0])) for row in split["rows"]]
    return Run(
        name,
        folder,
        experiment,
        earlier,
        versions,
        _of_one_setup(rows, latest, "results", notes),
        splits,
        parts["finetuning"],
        parts["diagnosis"],
        notes,
    )


def _of_one_setup(found: Sequence[Mapping[str, Any]], latest: Sequence[str], what: str, notes: list[str]) -> list[Any]:
    """Returns those of one setup in each group; says which are not."""
    kept, others = of_one_setup(found, latest)
    for task, method in dict.fromkeys((one["task"], one["method"]) for one in others):
        seeds = sorted({str(one["seed"]) for one in others if (one["task"], one["method"]) == (task, method)})
        notes.append(
            f"{what}, {task}, {method}: split{'s' if len(seeds) > 1 else ''} {', '.join(seeds)} had other settings than the last run and "
            "would not make one mean with it; left out."
        )
    return kept


def _is_of(one: Mapping[str, Any], split: Mapping[str, Any] | None) -> bool:
    """False for a fine-tuning or diagnosis that names other contents than its split has, or another training than the split's row is of."""
    if split is None:
        return True
    pairs = [(one.get("content"), split.get("content"))]
    arms = split.get("arms")
    if isinstance(arms, dict):
        pairs.append((one.get("about"), arms.get(one["method"])))
    return all(own == of_split or own is None or of_split is None for own, of_split in pairs)


def _placing(experiment: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    """Returns a key that sorts tasks as the experiment names them, k and seeds as numbers, the prompt before the head, SGD first."""
    own = [task.get("name") for task in experiment.get("own_tasks") or () if isinstance(task, dict)]
    names = [*(experiment.get("tasks") or ()), *own]
    order = {name: number for number, name in enumerate(names)}

    def place(one: Mapping[str, Any]) -> tuple[Any, ...]:
        task = one["task"]
        return (
            order.get(task, len(order)),
            task,
            one["k"],
            one["mode"] != "prompt",
            one["seed"],
            not str(one.get("method", "")).startswith("sgd"),
        )

    return place


def _files(folder: Path, part: str, is_right: Callable[[Any], bool], notes: list[str]) -> list[tuple[Path, dict[str, Any]]]:
    found = []
    for path in sorted((folder / part).glob("*.json")):
        content = _read(path)
        if is_right(content):
            found.append((path, content))
        else:
            notes.append(
                f"{part}/{path.name} is not a file of this version of lmntk, or is damaged, and was left out; run again, it is made anew."
            )
    return found


def _read(path: Path) -> Any:
    """Returns the data of a JSON file, with numbers that are none (NaN, infinity) as None; None when it is missing or broken."""
    try:
        return _finite(json.loads(path.read_text(encoding="utf8")))
    except (OSError, ValueError):
        return None


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, list) else value


def _is_cell(content: Any) -> bool:
    return (
        isinstance(content, dict)
        and isinstance(content.get("cell"), str)
        and isinstance(content.get("rows"), list)
        and bool(content["rows"])
        and all(isinstance(row, dict) and {"task", "k", "seed", "mode", "method", "metric", "test"} <= set(row) for row in content["rows"])
        and all(row["test"] is None or isinstance(row["test"], int | float) for row in content["rows"])  # None of one that diverged
        and any(row["test"] is not None for row in content["rows"])
    )


def _has_format(form: str) -> Callable[[Any], bool]:
    return lambda content: isinstance(content, dict) and content.get("format") == form and set(COMMON) <= set(content)


def _current(
    found: Sequence[tuple[Path, dict[str, Any]]], folder: Path, weights: str | None, notes: list[str]
) -> dict[str, dict[str, Any]]:
    """Returns the splits of the weights that were used last; those of other weights in the same folder are another run's."""
    if not found:
        return {}
    newest = max(found, key=lambda one: (one[1].get("model") == weights, one[0].stat().st_mtime_ns))[1].get("model")
    current = {split["cell"]: split for _, split in found if split.get("model") == newest}
    if len(current) < len(found):
        notes.append(f"{len(found) - len(current)} splits in {folder.name} are of other weights and were left out.")
    return current
