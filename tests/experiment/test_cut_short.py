"""Runs that are killed while files are written: whatever was written last, the same command ends in the same bits and leaves nothing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tiny import films, write_model

from lmntk.engine import rates as calibration
from lmntk.engine import stream as streaming
from lmntk.engine.batches import Capturer
from lmntk.engine.settings import NOT_KEPT
from lmntk.experiment.configuration import make_experiment
from lmntk.experiment.run import run
from lmntk.system.kept import read_record, write_record
from lmntk.system.progress import Silent

METHODS = {"formulas": ["sgd", "asigngd"], "solvers": ["ridge"]}


class KilledError(Exception):
    """In place of a kill: nothing catches it."""


class Notes(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("cut-short")
    write_model(folder / "bert")
    own = films(folder, 24, 10)
    return {
        "model": str(folder / "bert"),
        "own_tasks": [own],
        "k": [2],
        "seeds": [13, 21],
        "batch_size": 4,
    } | METHODS


@pytest.fixture(autouse=True)
def no_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    """The speed of this machine is of no interest here, and takes a second each time."""
    monkeypatch.setattr(
        calibration, "measure_rates", lambda device: calibration.Rates(1, 1, 1, 1, 1, "some machine")
    )


def killed_at(
    monkeypatch: pytest.MonkeyPatch, counts: Callable[[Path], bool], moment: int, body: Callable[[], Any]
) -> bool:
    """Runs the body until the write of that number among those that count; True if it came so far."""
    replace, seen = os.replace, 0

    def replacing(source: Any, target: Any) -> None:
        nonlocal seen
        if counts(Path(target)):
            if seen == moment:
                raise KilledError
            seen += 1
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", replacing)
        try:
            body()
        except KilledError:
            return True
    return False


def contents(out: Path) -> dict[str, Any]:
    """Returns the numbers of a run, to the bit."""
    kernels = sorted((out / "kernels").rglob("*.safetensors"))
    found: dict[str, Any] = {
        str(p.relative_to(out)): {n: t.numpy().tobytes() for n, t in load_file(p).items()} for p in kernels
    }
    found |= {
        str(p.relative_to(out)): json.loads(p.read_text())["rows"]
        for p in sorted((out / "splits").glob("*.json"))
    }
    return found | {"results": (out / "results.csv").read_text()}


def captured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    seen: list[int] = []
    of_batch = Capturer.of_batch
    monkeypatch.setattr(
        Capturer, "of_batch", lambda self, texts: seen.append(len(texts)) or of_batch(self, texts)
    )
    return seen


EVERYTHING: dict[str, Callable[[Path], bool]] = {
    "kernels": lambda path: "kernels" in path.parts,
    "results": lambda path: (
        path.parent.name in ("splits", "predictions") or path.name in ("results.csv", "work.json")
    ),
}

EMPTY = {("results", 0), ("results", 1)}  # moments at which the pieces, or the cut, are not written down yet


@pytest.mark.parametrize(
    ("kind", "keep_kernels"),
    [("kernels", True), *(pytest.param("results", keep, marks=pytest.mark.slow) for keep in (True, False))],
)
def test_killed_between_any_two_files_it_ends_in_the_same_bits(
    values, tmp_path, monkeypatch, kind, keep_kernels
):
    """Batches and tiles of other texts, or other formulas at once, would differ in the last bits; so would texts captured again."""
    values = values | {"keep_kernels": keep_kernels}
    run(make_experiment(values | {"out": tmp_path / "whole"}))
    expected, moment = contents(tmp_path / "whole"), 0
    while True:
        again = make_experiment(values | {"out": tmp_path / f"at-{moment}"})
        if not killed_at(monkeypatch, EVERYTHING[kind], moment, lambda again=again: run(again)):
            break
        begun = (again.out / "scratch").exists()
        with monkeypatch.context() as patched:
            seen = captured(patched)
            run(again)
        assert contents(again.out) == expected
        assert not (again.out / "scratch").exists()
        if begun and (kind, moment) not in EMPTY:
            assert seen == [], f"texts were captured again after a kill at {moment}"
        moment += 1
    assert moment >= {"kernels": 2 * (3 * 2 + 1), "results": 6}[kind]


def test_what_is_left_of_finished_cells_is_removed(values, tmp_path, monkeypatch):
    again = make_experiment(values | {"out": tmp_path / "out", "keep_kernels": False})
    with monkeypatch.context() as patched:
        patched.setattr(
            "lmntk.experiment.steps.solve.forget_kernels",
            lambda *arguments: (_ for _ in ()).throw(KilledError),
        )
        with pytest.raises(KilledError):
            run(again)
    assert list((tmp_path / "out" / "scratch").rglob("tiles/*"))
    seen = captured(monkeypatch)
    run(again)
    assert seen == []
    assert not (tmp_path / "out" / "scratch").exists()


def test_a_formula_more_computes_that_alone(values, tmp_path, monkeypatch):
    asked: list[tuple[str, ...]] = []
    stream = streaming.stream_kernels
    monkeypatch.setattr(
        "lmntk.experiment.steps.kernels.stream_kernels",
        lambda *a, **k: asked.append(tuple(a[0].formulas)) or stream(*a, **k),
    )
    for formulas in (["sgd"], ["sgd", "asigngd"]):
        run(make_experiment(values | {"out": tmp_path / "out", "formulas": formulas}))
    assert asked == [("sgd",), ("asigngd",)]


@pytest.mark.parametrize(("memory", "again"), [("40GiB", "30GiB"), ("30GiB", "40GiB")])
def test_another_memory_goes_on_with_what_is_begun(values, tmp_path, monkeypatch, memory, again):
    counts = EVERYTHING["kernels"]
    first = make_experiment(values | {"out": tmp_path / "out", "memory": memory})
    assert killed_at(monkeypatch, counts, 0, lambda: run(first))
    seen = captured(monkeypatch)
    run(make_experiment(values | {"out": tmp_path / "out", "memory": again}))
    assert seen == []
    assert not (tmp_path / "out" / "scratch").exists()


def test_a_cut_that_does_not_fit_any_more_is_dropped_and_said(values, tmp_path, monkeypatch):
    first = make_experiment(values | {"out": tmp_path / "out", "memory": "40GiB"})
    assert killed_at(monkeypatch, EVERYTHING["kernels"], 0, lambda: run(first))
    records = {path: read_record(path) for path in (tmp_path / "out" / "scratch").glob("*/work.json")}
    ((path, record),) = [(path, record) for path, record in records.items() if record["schedule"]]
    record["schedule"]["peak"] = 50 * 2**30
    write_record(path, record)
    notes = Notes()
    run(make_experiment(values | {"out": tmp_path / "out", "memory": "30GiB"}), notes)
    assert [
        line
        for line in notes.lines
        if "was cut for 50.0 GiB of memory, and 30.0 GiB are allowed: it begins anew" in line
    ]
    assert not (tmp_path / "out" / "scratch").exists()


def test_another_batch_size_leaves_nothing_of_the_old(values, tmp_path, monkeypatch):
    first = make_experiment(values | {"out": tmp_path / "out"})
    assert killed_at(monkeypatch, EVERYTHING["kernels"], 0, lambda: run(first))
    notes = Notes()
    run(make_experiment(values | {"out": tmp_path / "out", "batch_size": 2}), notes)
    assert [line for line in notes.lines if "unfinished work of another batch size is dropped" in line]
    assert not (tmp_path / "out" / "scratch").exists()


FEWER = {"formulas": ["asigngd"]}
OTHERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "formulas": ({}, FEWER),
    "more formulas": (FEWER, {}),
    "what is kept": ({"keep_kernels": False}, FEWER | {"keep_kernels": False}),
    "precision": ({}, {"precision": "bfloat16"}),
    "another scratch": ({}, {"scratch": True} | FEWER),
}


@pytest.mark.parametrize("change", OTHERS)
def test_other_settings_leave_nothing_of_what_was_begun(values, tmp_path, monkeypatch, change):
    first, then = OTHERS[change]
    out, shared = {"out": tmp_path / "out"}, tmp_path / "shared"
    kind, moment = ("results", 2) if "keep_kernels" in first else ("kernels", 1)
    begun = make_experiment(values | out | first)
    assert killed_at(monkeypatch, EVERYTHING[kind], moment, lambda: run(begun))
    assert list((tmp_path / "out" / "scratch").rglob("tiles/*"))
    run(make_experiment(values | out | then | ({"scratch": shared} if "scratch" in then else {})))
    assert not (tmp_path / "out" / "scratch").exists()
    assert not shared.exists()


def test_what_others_have_begun_in_a_scratch_folder_stays(values, tmp_path, monkeypatch):
    """Another output folder's, splits that are not finished now, and factors that were kept."""
    shared = {"scratch": tmp_path / "scratch"}
    run(
        make_experiment(
            values | shared | FEWER | {"out": tmp_path / "out", "keep_factors": True, "seeds": [87]}
        )
    )
    kept = {path for path in shared["scratch"].rglob("*") if path.is_file()}
    (record,) = [json.loads(path.read_text()) for path in kept if path.name == "work.json"]
    assert record["factors"] and record["schedule"]
    for out, more in (("other", {}), ("out", {"seeds": [13, 42]})):
        begun = make_experiment(values | shared | {"out": tmp_path / out} | more)
        assert killed_at(monkeypatch, EVERYTHING["kernels"], 1, lambda begun=begun: run(begun))
    left = {path for path in shared["scratch"].rglob("*") if path.is_file()}
    run(make_experiment(values | shared | {"out": tmp_path / "out", "formulas": ["sgd"]}))
    assert {path for path in shared["scratch"].rglob("*") if path.is_file()} == left > kept
    for out, more in (("other", {}), ("out", {"seeds": [13, 42]})):
        run(make_experiment(values | shared | {"out": tmp_path / out} | more))
    assert {path for path in shared["scratch"].rglob("*") if path.is_file()} == kept


def test_a_copy_of_an_output_folder_leaves_the_works_of_the_first(values, tmp_path, monkeypatch):
    shared = {"scratch": tmp_path / "scratch"}
    begun = make_experiment(values | shared | {"out": tmp_path / "out"})
    assert killed_at(monkeypatch, EVERYTHING["kernels"], 1, lambda: run(begun))
    shutil.copytree(tmp_path / "out", tmp_path / "copy")
    left = {path for path in shared["scratch"].rglob("*") if path.is_file()}
    run(make_experiment(values | shared | FEWER | {"out": tmp_path / "copy"}))
    assert {path for path in shared["scratch"].rglob("*") if path.is_file()} == left


def test_that_no_factors_are_kept_of_kernels_that_are_there_is_said(values, tmp_path):
    """Of splits that are finished, and of splits whose kernels are all there and other solutions are asked for."""
    first = values | {"out": tmp_path / "out"}
    run(make_experiment(first))
    for more in ({}, {"solvers": ["logistic"], "formulas": ["sgd"]}):
        notes = Notes()
        run(make_experiment(first | more | {"keep_factors": True}), notes)
        assert {line for line in notes.lines if "keep-factors" in line} == {NOT_KEPT}
        assert not list((tmp_path / "out").rglob("factors"))
    notes = Notes()
    run(make_experiment(values | {"out": tmp_path / "new", "keep_factors": True}), notes)
    assert not [line for line in notes.lines if "keep-factors" in line]
    assert list((tmp_path / "new").rglob("factors"))
