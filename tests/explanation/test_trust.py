"""The gate: e of one short real training against its emulation, kept by its key; the real one is plain gradient descent."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from kept_fits import messages, write_table

from lmntk.estimator import trust
from lmntk.estimator.solved import Solved
from lmntk.prediction.files import load_predictor
from lmntk.prompts.batching import collate
from lmntk.solvers.emulator import descend, emulated_logits

CommandLine = Callable[..., tuple[int, str, str]]
COLUMNS = ("--text-column", "message", "--label-column", "category", "--dtype", "float64")


def by_hand(folder: Path, rate: float) -> float:
    """Return e of twelve plain steps on all texts at once."""
    loaded, solved = load_predictor(folder), Solved.read(folder)
    model = loaded.predictor.model.eval()
    batch = collate([loaded.encoder.encode(example) for example in solved.examples], loaded.predictor.pad_id)
    labels = torch.tensor(solved.record.numbers)
    for _ in range(12):
        model.zero_grad()
        logits = model(batch)
        loss = torch.nn.functional.softplus(-(2 * labels - 1) * logits[:, 0]).mean()
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= rate * parameter.grad
    real = model(batch).detach().numpy()
    coefficients = descend(solved.kernel, solved.record.numbers, solved.logits, [rate] * 12)[-1]
    missed = real - emulated_logits(coefficients, solved.kernel, solved.logits)
    return float(np.linalg.norm(missed) / np.linalg.norm(real - solved.logits))


def test_the_gate_is_measured_once_and_kept(
    tmp_path: Path, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.write_model(tmp_path / "model")
    table = write_table(tmp_path / "texts.tsv", messages(5))
    fit, audit = tmp_path / "fit", tmp_path / "audit"
    assert command_line("fit", table, "--model", model, *COLUMNS, "--out", fit)[0] == 0
    code, out, _ = command_line("explain", fit, "--trust", "check", "--json")
    assert code == 0
    regime = json.loads(out)["regime"]
    kept = json.loads(next(fit.glob("trust-*.json")).read_text())
    assert regime["error"] == pytest.approx(by_hand(fit, kept["rate"]), rel=1e-6)
    word = "holds" if regime["error"] <= 0.1 else "rough" if regime["error"] <= 0.3 else "leaves the kernel"
    assert regime["regime"] == word
    assert "12 full-batch SGD steps" in regime["sentence"]

    code, out, _ = command_line(
        "audit", table, "--model", model, *COLUMNS, "--trust", "check", "--out", audit, "--json"
    )
    assert json.loads(out)["regime"]["error"] == pytest.approx(regime["error"], rel=1e-6)

    def refuse(*_: object) -> None:
        raise AssertionError("it was measured before")

    monkeypatch.setattr(trust.ShortTraining, "measure", refuse)
    for asked in (
        ("explain", fit, "--trust", "check"),
        ("explain", fit, "--without-rows", "1"),
    ):
        code, out, _ = command_line(*asked)
        assert code == 0
        assert regime["sentence"] in out


def test_a_shared_kernel_is_no_trainings_own(tmp_path: Path, command_line: CommandLine) -> None:
    model = tiny.write_model(tmp_path / "model")
    table = write_table(tmp_path / "texts.tsv", messages(5, 3))
    options = (
        "--model",
        model,
        *COLUMNS,
        "--classes",
        "shared",
        "--trust",
        "check",
        "--out",
        tmp_path / "out",
    )
    code, out, err = command_line("audit", table, *options)
    assert (code, out) == (2, "")
    assert "the classes share a kernel" in err.splitlines()[-1]
