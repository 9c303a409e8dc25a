"""The files that a run left in its folder, read into plain data for the page; what cannot be read is named, and left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from lmntk.errors import UserError
from lmntk.kernels.kernel import Kernel
from lmntk.runs.earlier import (
    NOT_CHECKED,
    configuration_of,
    hidden_results,
    is_earlier,
    kernel_folders_of,
    reading,
    records_of,
)
from lmntk.runs.records import DiagnosisRecord, FineTuningRecord, Record, SplitResults
from lmntk.runs.setups import of_one_setup
from lmntk.runs.store import Store, kernel_file
from lmntk.system.kept import or_none
from lmntk.tasks import TASKS

LINEARIZED = " (linearized)"
WRITTEN = "written at"  # an entry that no file has
Kind = TypeVar("Kind", bound=Record)


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
        finetunings: the records of ``finetunings/``.
        diagnoses: the records of ``diagnoses/``.
        notes: what was left out, and why.
        texts: of each task, what was guessed and counted as its texts were read.
        explained: of each task a split's test texts with those that speak for and against their predictions.
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
    texts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    explained: Sequence[Mapping[str, Any]] = ()

    @property
    def model(self) -> str:
        """The model as the user named it, without the folders above it."""
        return Path(str(self.experiment.get("model", ""))).name

    def titles(self) -> dict[str, str]:
        """Return the tasks' names in print, by name."""
        return {name: task.title for name, task in TASKS.items()}

    def kernel(self, split: str, formula: str = "sgd") -> Kernel | None:
        """Return a split's kernel among its training texts, where it was kept and is that of the split's results."""
        digest = self.splits.get(split, {}).get("kernels")
        expected = None if digest is None else {"key": digest}
        for folder in self.kernel_folders(split):
            path = kernel_file(folder, "train", formula)
            try:
                with reading(self.folder):
                    kernel = or_none(lambda path=path: Kernel.load(path, expected))  # type: ignore[misc]
                if kernel is not None:
                    return kernel
            except UserError:  # there is none, or of other settings
                continue
        return None

    def kernel_folders(self, split: str) -> list[Path]:
        """Return the folders of a split's kernels; kernels of several settings lie side by side."""
        return kernel_folders_of(Store(self.folder), split)


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Return the runs in the folders, in their order.

    Raises:
        UserError: a folder that is not there, holds no run, or is named twice.
    """
    resolved = [folder.resolve() for folder in folders]
    for folder in resolved:
        if resolved.count(folder) > 1:
            raise UserError(f"run: {str(folder)!r} is named twice; name each folder once")
    return [_read_run(folder, name) for folder, name in zip(folders, _names(resolved), strict=True)]


def read_run(folder: Path) -> Run:
    """Return the run in a folder.

    Raises:
        UserError: a folder that is not there, or holds no run.
    """
    return _read_run(folder, folder.resolve().name)


def _names(folders: Sequence[Path]) -> list[str]:
    """Return the folders' shortest names that tell them apart."""
    depth = 1
    while True:
        names = ["/".join(folder.parts[-depth:]) for folder in folders]
        if len(set(names)) == len(names) or depth > max(len(folder.parts) for folder in folders):
            return names
        depth += 1


def _read_run(folder: Path, name: str) -> Run:
    if not folder.is_dir():
        raise UserError(f"run: no folder {str(folder)!r}; name one that `lmntk run` wrote")
    store = Store(folder)
    notes = [f"the folder {NOT_CHECKED}."] if is_earlier(folder) else []
    notes += [f"{line}." for line in (hidden_results(folder.resolve()),) if line]
    configuration = configuration_of(store)
    experiment, latest = configuration.experiment, configuration.setups
    order = _order(experiment)
    results = _named_files(store, SplitResults, notes)
    current = _current(results, store, configuration.weights, latest, notes)
    others = {record.name for record in results.values()} - set(current)
    finetunings = _belonging(store, FineTuningRecord, current, others, notes)
    finetunings = _newest(_of_one_setup(sorted(finetunings, key=order), latest, "finetuning", notes))
    diagnoses = _belonging(store, DiagnosisRecord, current, others, notes)
    diagnoses = _about_these(diagnoses, finetunings, notes)
    diagnoses = _newest(_of_one_setup(sorted(diagnoses, key=order), latest, "diagnosis", notes))
    if not current and not finetunings and not diagnoses:
        raise UserError(
            f"run: {str(folder)!r} holds no finished split, fine-tuning or diagnosis; name a folder that `lmntk run` wrote"
        )
    splits = {name: record.as_dict() for name, record in current.items()}
    computed = [*splits.values(), *finetunings, *diagnoses]
    versions: dict[str, str] = configuration.versions or next(
        (record["versions"] for record in computed if record.get("versions")), {}
    )
    rows = _rows(current, finetunings, order)
    rows = _of_one_setup(rows, latest, "results", notes)
    return Run(
        name,
        folder,
        experiment,
        configuration.earlier,
        versions,
        rows,
        splits,
        finetunings,
        diagnoses,
        notes,
        configuration.texts,
        [
            each.model_dump()
            for each in store.explained()
            if each.split in current and each.results == current[each.split].key
        ],
    )


def _rows(
    splits: Mapping[str, SplitResults],
    finetunings: Sequence[Mapping[str, Any]],
    order: Callable[[Mapping[str, Any]], tuple[Any, ...]],
) -> list[dict[str, Any]]:
    """Return the rows of all splits: of each the methods', then the fine-tunings'."""
    rows = []
    for results in sorted(splits.values(), key=lambda results: order(results.rows[0].model_dump())):
        own = [record for record in finetunings if record["split"] == results.name]
        trained = [FineTuningRecord.model_validate(record).row(results.head).model_dump() for record in own]
        methods = {row["method"] for row in trained}
        rows += [row.model_dump() for row in results.rows if row.method not in methods] + trained
    return rows


def _of_one_setup(
    found: Sequence[Mapping[str, Any]], latest: Sequence[str], what: str, notes: list[str]
) -> list[Any]:
    """Return those of one setup in each group; says which are not."""
    kept, others = of_one_setup(found, latest)
    for task, method in dict.fromkeys((one["task"], one["method"]) for one in others):
        seeds = sorted({str(one["seed"]) for one in others if (one["task"], one["method"]) == (task, method)})
        notes.append(
            f"{what}, {task}, {method}: split{'s' if len(seeds) > 1 else ''} {', '.join(seeds)} had other settings than the last run, so "
            "they do not enter its mean; left out."
        )
    return kept


def _order(experiment: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    """Return a key that sorts tasks as the experiment names them, k and seeds as numbers, the prompt before the head, SGD first."""
    own = [task.get("name") for task in experiment.get("own_tasks") or () if isinstance(task, dict)]
    names = [*(experiment.get("tasks") or ()), *own]
    order = {name: number for number, name in enumerate(names)}

    def order_of(record: Mapping[str, Any]) -> tuple[Any, ...]:
        task = record["task"]
        return (
            order.get(task, len(order)),
            task,
            record["k"],
            record["mode"] != "prompt",
            record["seed"],
            not str(record.get("method", "")).startswith("sgd"),
        )

    return order_of


def _named_files(store: Store, kind: type[Kind], notes: list[str]) -> dict[str, Kind]:
    """Return the records of a kind by their files' names; name the damaged ones."""
    named = {}
    for name, record in records_of(store, kind).items():
        if record is None:
            notes.append(
                f"{name} is not a file of this version of lmntk, or is damaged, and was left out; run again to make it anew."
            )
        else:
            named[name] = record
    return named


def _current(
    results: Mapping[str, SplitResults],
    store: Store,
    weights: str | None,
    latest: Sequence[str],
    notes: list[str],
) -> dict[str, SplitResults]:
    """Return each split's results of the weights and settings that were used last; say how many are others'.

    Results of other settings lie beside them. Of a split those are taken whose setups come first among the latest;
    of equals, those that were written last.
    """
    if not results:
        return {}
    newest = max(results, key=lambda name: (results[name].model == weights, store.written_at(name)))
    of_weights = {name: record for name, record in results.items() if record.model == results[newest].model}
    if len(of_weights) < len(results):
        left_out = len(results) - len(of_weights)
        notes.append(f"{left_out} splits in {store.folder.name} have other weights and were left out.")

    def rank(item: tuple[str, SplitResults]) -> tuple[list[bool], float]:
        name, record = item
        setups = {row.setup for row in record.rows}
        return [setup not in setups for setup in latest], -store.written_at(name)

    current: dict[str, SplitResults] = {}
    for _, record in sorted(of_weights.items(), key=rank):
        current.setdefault(record.name, record)
    if len(current) < len(of_weights):
        left_out = len(of_weights) - len(current)
        notes.append(f"{left_out} results have other settings than the last run, and are left out.")
    return {name: current[name] for name in dict.fromkeys(record.name for record in of_weights.values())}


def _belonging(
    store: Store,
    kind: type[FineTuningRecord] | type[DiagnosisRecord],
    splits: Mapping[str, SplitResults],
    others: set[str],
    notes: list[str],
) -> list[dict[str, Any]]:
    """Return the records whose contents are those of the current splits; say how many are not."""
    named = _named_files(store, kind, notes)
    fitting = {}
    for name, record in named.items():
        of_split = splits[record.name].content if record.name in splits else None
        if record.name not in others and (None in (record.content, of_split) or record.content == of_split):
            fitting[name] = record
    if len(fitting) < len(named):
        notes.append(
            f"{len(named) - len(fitting)} of {kind.FOLDER} have other weights, prompts, texts or trainings "
            "than the splits now, and are left out."
        )
    return [record.as_dict() | {WRITTEN: store.written_at(name)} for name, record in fitting.items()]


def _about_these(
    diagnoses: Sequence[dict[str, Any]], finetunings: Sequence[Mapping[str, Any]], notes: list[str]
) -> list[dict[str, Any]]:
    """Return the diagnoses that are about the trainings that are shown; say how many are not."""
    keys = {(record["split"], record["method"]): record.get("key") for record in finetunings}
    fitting = []
    for record in diagnoses:
        about, key = record.get("about"), keys.get((record["split"], record["method"]))
        if None in (about, key) or about == key:
            fitting.append(record)
    if len(fitting) < len(diagnoses):
        notes.append(
            f"{len(diagnoses) - len(fitting)} of diagnoses have other weights, prompts, texts or trainings "
            "than the splits now, and are left out."
        )
    return fitting


def _newest(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the record of each split and method that was written last, without the time of writing."""
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    for record in sorted(records, key=lambda record: -record[WRITTEN]):
        newest.setdefault((record["split"], record["method"]), record)
    kept = [record for record in records if newest[record["split"], record["method"]] is record]
    return [{name: value for name, value in record.items() if name != WRITTEN} for record in kept]
