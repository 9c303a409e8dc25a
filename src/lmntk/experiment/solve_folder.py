"""Kernels that are there already, with their labels and logits: those of a run, and those that the paper's code saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmntk.errors import UserError
from lmntk.experiment.published import Solvable, published
from lmntk.experiment.solve_outputs import is_output, of_outputs
from lmntk.kernels.formulas import FORMULAS
from lmntk.kernels.kernel import Kernel
from lmntk.runs.earlier import is_earlier, kernel_folders_of, reading, records_of
from lmntk.runs.records import FINE_TUNING, SplitResults
from lmntk.runs.split import SIDES
from lmntk.runs.store import LOGITS, Store, kernel_file
from lmntk.solvers.baselines import OWN_HEAD, baselines, names_of
from lmntk.solvers.outcome import methods_of, solve_split
from lmntk.system.hashing import short
from lmntk.system.kept import load_arrays
from lmntk.system.notices import say


def solve_folder(
    folder: Path,
    task: str | None,
    formulas: Sequence[str] | None = None,
    solvers: Sequence[str] | None = None,
    metric: str | None = None,
) -> list[dict[str, Any]]:
    """Return a row a split and method, solved and selected on dev as in a run.

    Args:
        folder: a run's, its ``kernels``, one of the paper's files, or one with three outputs of ``lmntk kernel``.
        task: a task, or a run's split; as it is in the files' names. Outputs of ``lmntk kernel`` need none.
        formulas: which kernels; of the paper's symmetric ones, which do not say what they are, ``sgd`` (the default) or ``signgd``.
        solvers: by default ridge, and asym for asigngd.
        metric: of a task that is none of the 14, in the paper's files.

    Raises:
        UserError: a file that is missing, damaged, of a wrong shape, or that holds more than tensors.
    """
    rows = []
    for solvable in read_folder(folder, task, formulas, metric):
        absent = [formula for formula in formulas or () if formula not in solvable.formulas]
        if absent:
            there = ", ".join(solvable.formulas) or "none"
            raise UserError(
                f"formulas: no {absent[0]} kernels of {solvable.name} in {str(folder)!r}; it has {there}"
            )
        methods = methods_of(formulas or solvable.formulas, solvers)
        outcomes = [
            solve_split(solvable.kernels, solvable.logits, solvable.labels, solvable.metric, *method)
            for method in methods
        ]
        if solvable.logits:
            names = names_of(solvable.mode, solvable.is_classifier)
            outcomes = [*baselines(names, solvable.metric, solvable.logits, solvable.labels), *outcomes]
        sizes = {f"{side}_texts": len(solvable.labels[side]) for side in SIDES}
        rows += [
            {"split": solvable.name, "mode": solvable.mode, **outcome.as_row(), **sizes}
            for outcome in outcomes
        ]
    return rows


def read_folder(
    folder: Path, task: str | None, formulas: Sequence[str] | None = None, metric: str | None = None
) -> list[Solvable]:
    """Return what there is of a task in a folder; see ``solve_folder``."""
    folder = folder.expanduser()
    if not folder.is_dir():
        raise UserError(
            f"kernels: no folder {str(folder)!r}; name a run's, or one with train_kernels_{task or 'TASK'}.pt"
        )
    if is_output(folder):
        return [of_outputs(folder, task, metric)]
    if task is None:
        raise UserError(
            "task: name one with --task, as it is in the files' names, or one split of a run; outputs of `lmntk kernel` alone need none"
        )
    for run in (folder, folder.parent):
        if ((run / SplitResults.FOLDER).is_dir() or is_earlier(run)) and (
            run == folder or folder.name == "kernels"
        ):
            with reading(run):
                return _of_run(Store(run), task, formulas)
    return [published(folder, task, formulas, metric)]


def _of_run(store: Store, task: str, formulas: Sequence[str] | None) -> list[Solvable]:
    """Return what a run kept of a task, or of one split; splits of other settings lie side by side."""
    records = records_of(store, SplitResults)
    results = [record for record in records.values() if record is not None]
    chosen = [record for record in results if task in (record.name, record.rows[0].task, _long_name(record))]
    if not chosen:
        names = ", ".join(sorted({record.rows[0].task for record in results})) or "no finished split"
        damaged = [Path(name).name for name, record in records.items() if record is None]
        also = f"; damaged: {', '.join(damaged)}, delete them and run again" if damaged else ""
        raise UserError(f"task: no split of {task!r} in {str(store.folder)!r}; it has {names}{also}")
    names_of = [record.name for record in chosen]
    ordered = sorted(chosen, key=lambda record: _rank(record))
    return [
        _solvable(
            store, record, _long_name(record) if names_of.count(record.name) > 1 else record.name, formulas
        )
        for record in ordered
    ]


def _long_name(record: SplitResults) -> str:
    return f"{record.name}-{short(record.key)}"


def _rank(record: SplitResults) -> tuple[Any, ...]:
    row = record.rows[0]
    return row.k, row.mode != "prompt", row.seed


def _solvable(store: Store, record: SplitResults, name: str, formulas: Sequence[str] | None) -> Solvable:
    """Return a split's kernels, labels and logits.

    Raises:
        UserError: no kernels, or kernels, logits and results that are not of one run.
    """
    folder, where = _kernel_folder(store, record), f"{record.name} in {str(store.folder)!r}"
    paths = {(side, formula): kernel_file(folder, side, formula) for formula in FORMULAS for side in SIDES}
    split_name = "cell" if is_earlier(store.folder) else "split"
    missing = {pair: path for pair, path in paths.items() if not path.is_file()}
    if len(missing) == len(paths):
        raise UserError(f"kernels: there are none of {where}; run it again without --no-kernels")
    _check_missing(record, where, [pair for pair in paths if pair not in missing], missing, formulas)
    whole = [formula for formula in FORMULAS if not any((side, formula) in missing for side in SIDES)]
    if not whole:
        raise UserError(f"kernels: no formula has all sides in {where}; run it again")
    kernels = {
        pair: Kernel.load(path, {split_name: record.name}) for pair, path in paths.items() if pair[1] in whole
    }
    keys = {kernel.provenance.get("key") for kernel in kernels.values()}
    if len(keys) > 1:
        raise UserError(
            f"kernels: those of {where} come from different runs; run it again, or delete {str(folder)!r}"
        )
    (key,) = keys
    if record.kernels not in (None, key):  # results of an earlier version do not say
        raise UserError(
            f"kernels: those of {where} come from other texts, weights or settings than its results; run it again"
        )
    labels = {"train": record.train_labels, "dev": record.dev_labels, "test": record.test_labels}
    unlabelled = [side for side in SIDES if not labels[side]]
    if unlabelled:
        raise UserError(
            f"kernels: the results of {where} have no {unlabelled[0]} labels; delete them and run again: the kernels are kept"
        )
    try:
        logits, metadata = load_arrays(folder / LOGITS)
    except FileNotFoundError:
        raise UserError(f"kernels: there are no logits of {where}; run it again") from None
    if metadata.get("key") != key:
        raise UserError(
            f"kernels: the logits of {record.name} come from another run than its kernels; run it again, or delete {str(folder)!r}"
        )
    row = record.rows[0]
    is_classifier = row.method == OWN_HEAD
    return Solvable(name, row.mode, row.metric, kernels, logits, labels, is_classifier)


def _check_missing(
    record: SplitResults,
    where: str,
    there: Sequence[tuple[str, str]],
    missing: Mapping[tuple[str, str], Path],
    formulas: Sequence[str] | None,
) -> None:
    """Refuse kernels of which a side is missing: a formula that was asked for would be dropped without a word.

    Raises:
        UserError: the files that are missing of a formula that was asked for, or is among the results.
    """
    expected = {row.formula for row in record.rows if row.formula and row.solver != FINE_TUNING}
    partly = {formula for _, formula in there}
    lost = [pair for pair in missing if pair[1] in expected | partly and pair[1] in (formulas or FORMULAS)]
    names = ", ".join(missing[pair].name for pair in lost)
    if any(formulas or formula in expected for _, formula in lost):
        raise UserError(f"kernels: {where} lacks the files {names}; run it again, or choose other formulas")
    if lost:
        say(f"kernels: {where} lacks the files {names}: left out")


def _kernel_folder(store: Store, record: SplitResults) -> Path:
    """Return where the kernels of the results are; else a folder of the split's, whose key tells what it is of."""
    named = store.kernel_folder(record.name, record.kernels or record.key)
    others = kernel_folders_of(store, record.name)
    return next((folder for folder in (named, *others) if folder.is_dir()), named)
