"""Runs that classify their test texts in one pass: when that is cheaper, and the memory that directions take."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kept import kept_at
from predicted_runs import predicted_values
from safetensors.torch import load_file
from tiny import write_model

from lmntk.engine.batches import Capturer
from lmntk.errors import UserError
from lmntk.experiment.configuration import make_experiment
from lmntk.experiment.plan import plan
from lmntk.experiment.run import run
from lmntk.experiment.shared_model import SharedModel, shared_models
from lmntk.experiment.start import open_session
from lmntk.experiment.steps import kernels as kernel_steps
from lmntk.experiment.steps import solve as solving
from lmntk.prediction.direction_memory import DirectionMemory
from lmntk.system.progress import Silent


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_model(folder / "bert")
    return folder


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    return predicted_values(tmp_path)


def test_a_run_without_kernels_classifies_its_test_texts_in_one_pass(models, values, monkeypatch):
    """Long kernels' rows, few solutions: one pass is cheaper; the results are the same."""
    values |= {"model": str(models / "bert"), "formulas": ["sgd"], "k": [8], "save_models": False}
    by_kernel = run(make_experiment(values | {"out": values["out"] / "kernel"}))
    streamed: list[int] = []
    stream = kernel_steps.stream_kernels

    def counted(work: Any, *arguments: Any, **named: Any) -> Any:
        streamed.append(sum(map(len, work.texts.values())))
        return stream(work, *arguments, **named)

    monkeypatch.setattr(kernel_steps, "stream_kernels", counted)
    monkeypatch.setattr(solving, "PASS", 0.5)
    in_one_pass = run(make_experiment(values | {"out": values["out"] / "pass", "keep_kernels": False}))
    assert streamed == [32]  # train and dev, not test
    for one, other in zip(by_kernel, in_one_pass, strict=True):
        assert {**one, "test": 0} == {**other, "test": 0}
        assert one["test"] == pytest.approx(other["test"])
    first, second = (
        kept_at(values["out"] / name / "predictions" / "films-k8-seed13-prompt.tsv").read_text() for name in ("kernel", "pass")
    )  # fmt: skip
    assert first == second


def test_a_run_cut_short_between_its_cells_kernels_goes_on_with_its_tiles(
    models, values, tmp_path, monkeypatch
):
    """Two splits begun together; the first has its kernels on disk when the run is cut short: the other's come from the tiles."""
    values |= {"model": str(models / "bert"), "seeds": [13, 21], "save_models": False, "formulas": ["sgd"]}
    run(make_experiment(values | {"out": tmp_path / "whole"}))

    class CutShortError(Exception):
        pass

    save, seen = kernel_steps.Kernel.save, []

    def saving(self: Any, path: Path) -> None:
        seen.append(path)
        if len(seen) == 5:  # of six
            raise CutShortError
        save(self, path)

    with monkeypatch.context() as patched:
        patched.setattr(kernel_steps.Kernel, "save", saving)
        with pytest.raises(CutShortError):
            run(make_experiment(values | {"out": tmp_path / "cut"}))
    captured: list[int] = []
    of_batch = Capturer.of_batch
    monkeypatch.setattr(
        Capturer, "of_batch", lambda self, texts: captured.append(len(texts)) or of_batch(self, texts)
    )
    run(make_experiment(values | {"out": tmp_path / "cut"}))
    assert captured == []
    for path in (tmp_path / "whole" / "kernels").rglob("*.safetensors"):
        one, other = load_file(path), load_file(tmp_path / "cut" / path.relative_to(tmp_path / "whole"))
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert not (tmp_path / "cut" / "scratch").exists()


def test_whether_one_pass_is_cheaper_does_not_depend_on_what_is_finished(models, values, monkeypatch):
    """Cells whose test texts are of other lengths: a run that goes on with some of them goes on in the same way."""
    experiment = make_experiment(
        values
        | {
            "model": str(models / "bert"),
            "formulas": ["sgd"],
            "solvers": ["ridge"],
            "seeds": [13, 21],
            "keep_kernels": False,
        }
    )
    session = open_session(experiment, Silent())
    (task,) = session.tasks
    by_length = sorted(range(20), key=lambda row: len(task.data[4, 13].test[row].text_a))
    first, second = (
        replace(split, test=tuple(part))
        for split, part in zip(task.splits, (by_length[:8], by_length[8:]), strict=True)
    )
    task = replace(task, splits=[first, second])
    shared = SharedModel(session, task, task.splits)
    lengths = [[text.length for text in shared.texts(split)["test"]] for split in task.splits]
    assert max(map(np.mean, lengths)) > 1.1 * min(map(np.mean, lengths))
    (whole,) = shared_models(
        replace(session, tasks=[task])
    )  # however many are left, the model has all splits
    assert list(whole.splits) == [first, second]
    seen = set()
    for price in np.linspace(0.5, 4, 200):
        monkeypatch.setattr(solving, "PASS", price)
        found = {
            solving.one_pass_is_cheaper(SharedModel(session, task, splits))
            for splits in ([first, second], [second, first])
        }
        assert len(found) == 1
        seen |= found
    assert seen == {True, False}


def test_there_must_be_room_for_all_directions_before_a_kernel_is_computed(models, values, monkeypatch):
    """Of asym with two logits that are two; one alone would fit longer, and be refused when the kernels are there."""
    asked: list[int] = []

    class AskedError(Exception):
        pass

    def cut(self: Any, directions: int, batch_size: int, signs: bool, coming: int) -> None:
        asked.append(directions)
        raise AskedError

    monkeypatch.setattr(DirectionMemory, "cut", cut)
    for formulas, expected in ((["sgd"], 1), (["sgd", "asigngd"], 2)):
        with pytest.raises(AskedError):
            run(
                make_experiment(
                    values | {"model": str(models / "bert"), "formulas": formulas, "all_logits": True}
                )
            )
        assert asked.pop() == expected


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="only Linux says what is held now")
def test_directions_are_cut_beside_what_is_held_by_then(models, values):
    """Kernels come between the trial and the directions: those that are there are measured, those that will come are counted."""
    session = open_session(
        make_experiment(values | {"model": str(models / "bert"), "formulas": ["sgd", "asigngd"]}), Silent()
    )
    (task,) = session.tasks
    one = SharedModel(session, task, task.splits)
    memory = one.direction_memory
    before, coming = memory.cut(1, 4, False).peak, 2**28
    assert abs(memory.cut(1, 4, False, coming).peak - before - coming) < 2**24
    kernels = torch.ones(coming // 4)
    assert abs(memory.cut(1, 4, False).peak - before - coming) < 2**24
    del kernels
    pairs = 8 * (8 + 8 + 20)  # four a class
    assert one.kernel_bytes(task.splits, ("train", "dev", "test")) == 8 * pairs * 3  # asigngd both ways round
    grouped = SharedModel(
        replace(session, settings=replace(session.settings, grouping=lambda name: name[-4:])),
        task,
        task.splits,
    )
    groups = len({name[-4:] for name in one.capturer.trainable})
    assert grouped.kernel_bytes(task.splits, ("train", "dev", "test")) == 8 * pairs * (3 + 2 * groups)


def test_directions_that_would_not_fit_beside_the_kernels_are_refused_before_these_are_computed(
    models, values, monkeypatch
):
    """By a plan as by a run."""
    values |= {"model": str(models / "bert"), "formulas": ["sgd"], "k": [4], "solvers": ["ridge"]}
    with monkeypatch.context() as patched:
        patched.setattr(SharedModel, "kernel_bytes", lambda self, splits, sides: 2**33)
        patched.setattr(solving, "kernels_of", lambda *a: pytest.fail("computes"))
        for doing in (plan, run):
            with pytest.raises(
                UserError, match=r"too little for a solution's direction in float64; the least is \d+MiB$"
            ):
                doing(make_experiment(values | {"memory": "8GiB"}))
