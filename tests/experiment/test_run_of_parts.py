"""Runs that solve kernels of parts of the model: LoRA on targets, and targets that train alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_shared_run import values_of
from tiny import write_model

from lmntk import KernelWork, UserError, stream_kernels
from lmntk.experiment.configuration import make_experiment
from lmntk.experiment.run import run
from lmntk.experiment.shared_model import shared_models
from lmntk.experiment.start import open_session
from lmntk.experiment.steps import kernels, subspaces
from lmntk.finetuning.subsets import Subset
from lmntk.kernels.gram import EVERYTHING
from lmntk.system.progress import Silent

FORMULAS = ["sgd", "signgd", "asigngd"]
PARTS: dict[str, Any] = {"targets": ["query+value", "all-linear"], "ranks": [1, 2], "others": ["norms"]}
NAMES = ["query+value r=1", "query+value r=2", "all-linear r=1", "all-linear r=2", "norms"]


def subset_of(name: str) -> Subset:
    """Return what really trains, as fine-tuning has it."""
    if " r=" not in name:
        return Subset(train_only=name)
    target, rank = name.split(" r=")
    return Subset(lora_rank=int(rank), lora_targets=target, seed=13)


@pytest.mark.parametrize("mode", ["prompt", "head"])
def test_kernels_are_those_of_what_fine_tuning_trains(tmp_path: Path, mode: str) -> None:
    values = values_of(tmp_path, write_model(tmp_path / "model"), formulas=FORMULAS, modes=[mode], **PARTS)
    session = open_session(make_experiment(values), Silent())
    (shared,) = shared_models(session)
    (split,) = shared.splits
    by_part, logits = subspaces._kernels(shared, split)
    assert list(by_part) == NAMES
    texts = shared.texts(split)
    for name, of_part in by_part.items():
        with subset_of(name).chosen(shared.model) as trained:
            work = KernelWork(
                trained.module,  # type: ignore[arg-type]
                texts,
                [("train", side) for side in texts],
                FORMULAS,
                trained.parameters,
                session.pretrained.pad_id,
            )
            expected = stream_kernels(work)
        for side in texts:
            np.testing.assert_allclose(logits[side], expected.logits[side].numpy(), atol=1e-12)
            of_side = expected.kernels["train", side]
            size = np.abs(of_part[side, "sgd"].values).max()
            np.testing.assert_allclose(
                of_part[side, "sgd"].values, of_side["sgd"][EVERYTHING].numpy(), atol=1e-9 * size
            )
            np.testing.assert_array_equal(
                np.rint(of_part[side, "signgd"].values), np.rint(of_side["signgd"][EVERYTHING].numpy())
            )
            flipped = of_part[side, "asigngd"].flipped
            assert flipped is not None
            np.testing.assert_allclose(
                flipped, of_side["asigngd_flipped"][EVERYTHING].numpy(), rtol=1e-8, atol=1e-12
            )


def test_a_run_has_a_row_for_each_part_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_model(tmp_path / "model")
    plain = run(make_experiment(values_of(tmp_path, model)))
    rows = run(make_experiment(values_of(tmp_path, model, **PARTS)))
    assert [row for row in rows if row["method"] in {each["method"] for each in plain}] == plain
    assert {row["method"] for row in rows if row["formula"]} == {
        "sgd ridge",
        *(f"sgd ridge ({name})" for name in NAMES),
    }
    monkeypatch.setattr(subspaces, "stream_kernels", None)  # all is there: nothing is computed
    assert run(make_experiment(values_of(tmp_path, model, **PARTS))) == rows
    assert {row["method"] for row in run(make_experiment(values_of(tmp_path, model)))} == {
        row["method"] for row in rows
    }


def test_beside_a_head_results_by_another_alpha_are_not_taken_for_this_one_s(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    part: dict[str, Any] = {"targets": ["query+value"], "ranks": [1], "modes": ["head"]}

    def figures(out: str, alpha: float, name: str) -> dict[str, Any]:
        values = values_of(tmp_path, model, **part, finetuning={"lora_alpha": alpha}, out=tmp_path / out)
        (row,) = [row for row in run(make_experiment(values)) if row["method"] == f"sgd ridge ({name})"]
        return {each: row[each] for each in ("dev", "test", "setting")}

    figures("resumed", 16.0, "query+value r=1")
    name = "query+value r=1 alpha=2000"
    assert figures("resumed", 2000.0, name) == figures("new", 2000.0, name)


def test_a_target_alone_is_a_run_of_its_parameters(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    rows = run(make_experiment(values_of(tmp_path, model, others=["norms"])))
    values = values_of(tmp_path, model, include=["*LayerNorm*"], out=tmp_path / "filtered")
    (of_filter,) = [row for row in run(make_experiment(values)) if row["formula"]]
    (of_part,) = [row for row in rows if row["method"] == "sgd ridge (norms)"]
    same = ("dev", "test", "setting")
    assert {name: of_part[name] for name in same} == {name: of_filter[name] for name in same}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"targets": ["mlp"]}, "give both, or neither"),
        ({"targets": ["nothing"], "ranks": [1]}, "'nothing'"),
        ({"targets": ["mlp"], "ranks": [4000]}, "rank: 4000"),
        ({"others": ["norms"], "formulas": [], "finetune": ["sgd"]}, "formulas"),
        ({"others": ["norms"], "classes": "shared"}, "give --classes full"),
    ],
)
def test_what_has_no_kernel_is_refused_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr(kernels, "stream_kernels", None)
    values = values_of(tmp_path, write_model(tmp_path / "model"), **more)
    with pytest.raises(UserError, match=said):
        run(make_experiment(values))
