"""``lmntk explain`` on a run: its test texts by the kernels that it kept, ridge and emulated fine-tuning."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from lmntk.experiment.configuration import make_experiment
from lmntk.experiment.run import Silent, run
from lmntk.explanation.asked import Question
from lmntk.explanation.of_run import RunSource
from lmntk.finetuning.settings import batch_order
from lmntk.kernels.kernel import Kernel
from lmntk.solvers.emulated_training import Training, emulate
from lmntk.system.kept import load_arrays

CommandLine = Callable[..., tuple[int, str, str]]
SPLIT = "films-k4-seed13-prompt"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one split, with SGD fine-tuning and its diagnosis."""
    root = tmp_path_factory.mktemp("run")
    values: dict[str, Any] = {
        "model": str(tiny.write_model(root / "model")),
        "own_tasks": [tiny.films(root, 24, 6)],
        "k": [4],
        "seeds": [13],
        "formulas": ["sgd"],
        "dtype": "float64",
        "finetune": ["sgd"],
        "diagnose": True,
        "finetuning": {"learning_rates": [1e-2], "batch_sizes": [4], "steps": 6, "eval_every": 3},
        "out": root / "out",
    }
    run(make_experiment(values), Silent())
    return root / "out"


def kernels_of(folder: Path) -> tuple[dict[tuple[str, str], Kernel], dict[str, np.ndarray], dict[str, Any]]:
    """Return the kept kernels by side, the logits, and the split's record."""
    (kept,) = (folder / "kernels").iterdir()
    kernels = {(side, "sgd"): Kernel.load(kept / f"{side}-sgd.safetensors") for side in ("train", "test")}
    (record,) = (folder / "splits").glob("*.json")
    return kernels, load_arrays(kept / "logits.safetensors")[0], json.loads(record.read_text())


@pytest.mark.parametrize(
    "method", ["sgd fine-tuning", "sgd fine-tuning (lora r=2)", "sgd fine-tuning (norms)"]
)
def test_the_regime_is_that_of_training_what_the_kernel_is_of(folder: Path, method: str) -> None:
    source = RunSource(Question(folder), Silent())
    source.run = replace(source.run, diagnoses=[{**each, "method": method} for each in source.run.diagnoses])
    assert source.run.diagnoses
    assert (source.regime().error is not None) == (method == "sgd fine-tuning")


def test_a_ridge_solution_is_taken_apart(folder: Path, tmp_path: Path, command_line: CommandLine) -> None:
    code, out, _ = command_line("explain", folder, "--texts", "3", "--out", tmp_path, "--json")
    assert code == 0
    done = json.loads(out)
    kernels, logits, record = kernels_of(folder)
    (row,) = (row for row in record["rows"] if row["method"] == "sgd ridge")
    setting = {name: float(value) for name, value in row["setting"].items()}
    matrix = kernels["train", "sgd"].values[:, 0, :, 0]
    labels, scale = np.array(record["train_labels"]), setting["f0_scale"]
    ridge = setting["regularization"] * np.linalg.norm(matrix, 2)

    def decisions(part: list[int]) -> np.ndarray:
        targets = (2.0 * labels - 1 - logits["train"][:, 0] / scale)[part]
        alpha = np.linalg.solve(matrix[np.ix_(part, part)] + ridge * np.eye(len(part)), targets)
        return kernels["test", "sgd"].values[part, 0, :, 0].T @ alpha + logits["test"][:, 0] / scale

    whole = decisions(list(range(8)))
    truth = np.array(record["test_labels"])
    assert ((whole > 0) == np.array(record["predictions"]["sgd ridge"])).all()
    worst = np.argsort(np.where(truth == 1, whole, -whole), kind="stable")[:3]
    for text, m in zip(done["texts"], worst, strict=True):
        sign = 1.0 if whole[m] > 0 else -1.0
        assert text["margin"] == pytest.approx(abs(whole[m]), abs=1e-8)
        assert text["offset"] + sum(text["contributions"]) == pytest.approx(text["margin"], abs=1e-8)
        for n in range(8):
            moved = sign * (whole[m] - decisions([each for each in range(8) if each != n])[m])
            assert text["influence"][n] == pytest.approx(moved, abs=1e-8)
        assert text["label"] == done["labels"][truth[m]]
    assert done["regime"]["regime"] is not None
    assert "the test texts' logits" in done["regime"]["sentence"]


def test_an_emulated_fine_tuning_has_the_pretrained_logits_as_its_offset(
    folder: Path, tmp_path: Path, command_line: CommandLine
) -> None:
    options = ("--method", "sgd fine-tuning", "--split", SPLIT, "--texts", "9")
    code, out, _ = command_line("explain", folder, *options, "--out", tmp_path, "--json")
    assert code == 0
    done = json.loads(out)
    kernels, logits, record = kernels_of(folder)
    (tuned,) = (json.loads(path.read_text()) for path in (folder / "finetunings").glob("*.json"))
    how, chosen = tuned["settings"], tuned["runs"][tuned["chosen"]]
    order = batch_order(8, chosen["batch_size"], how["steps"], how["seed"])
    training = Training(
        "sgd", chosen["learning_rate"], how["steps"], tuned["loss"], chosen["batch_size"], how["schedule"],
        how["max_grad_norm"] or None, order,
    )  # fmt: skip
    emulated = emulate(training, kernels, record["train_labels"], logits, [how["steps"]], "test")
    margins = sorted(abs(emulated[0][:, 0]))
    assert sorted(text["margin"] for text in done["texts"]) == pytest.approx(margins, abs=1e-8)
    for text in done["texts"]:
        assert text["offset"] + sum(text["contributions"]) == pytest.approx(text["margin"], abs=1e-8)
    offsets = sorted(abs(text["offset"]) for text in done["texts"])
    assert offsets == pytest.approx(sorted(abs(logits["test"][:, 0])), abs=1e-8)
    assert done["settings"]["emulated"]


MISTAKES = {
    "new texts": (("--text", "a film"), r"a run explains its own test texts.*lmntk fit FILE"),
    "a short training": (("--trust", "check"), r"--finetune sgd --diagnose"),
    "no such split": (("--split", "films"), r"nothing of split 'films' .*films-k4-seed13-prompt sgd ridge"),
    "no such method": (("--method", "sgd svc"), r"nothing of method 'sgd svc'"),
    "no kernels": ((), r"kernels: there are none of films-k4-seed13-prompt .*without --no-kernels"),
    "other texts": ((), r"texts of films-k4-seed13-prompt have changed since the run"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line(folder: Path, tmp_path: Path, command_line: CommandLine, mistake: str) -> None:
    options, message = MISTAKES[mistake]
    asked = folder
    if mistake in ("no kernels", "other texts"):
        asked = tmp_path / "run"
        shutil.copytree(folder, asked)
    train = folder.parent / "train.jsonl"
    before = train.read_text()
    try:
        if mistake == "no kernels":
            shutil.rmtree(asked / "kernels")
        if mistake == "other texts":
            train.write_text("\n".join(before.splitlines()[::-1][1:]) + "\n")
        code, out, err = command_line("explain", asked, *options, "--out", tmp_path / "out")
    finally:
        train.write_text(before)
    assert (code, out) == (2, "")
    assert re.search(message, err.splitlines()[-1])
