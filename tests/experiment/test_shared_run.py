"""Runs whose classes share a kernel: against ridge on the kernel of every class, and what they refuse."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import write_model

from lmntk.errors import UserError
from lmntk.experiment.configuration import make_experiment
from lmntk.experiment.reading import read_tasks
from lmntk.experiment.run import run
from lmntk.kernels.kernel import Kernel
from lmntk.solvers.grid import solve_grid
from lmntk.solvers.inputs import KernelWarning, SolverInputs
from lmntk.solvers.shared import SIGNS, is_contrasted, sign_combinations
from lmntk.system.kept import load_arrays

CommandLine = Callable[..., tuple[int, str, str]]
CLASSES = {"bad": "dull", "so-so": "long", "good": "fine"}


def values_of(tmp_path: Path, model: Path, **more: Any) -> dict[str, Any]:
    """Return a small run of three classes in float64."""
    for name, count in (("train", 6), ("test", 4)):
        rows = [
            {"text": f"a {word} film {number}", "label": label}
            for number in range(count)
            for label, word in CLASSES.items()
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = {"name": "own", "train": str(tmp_path / "train.jsonl"), "test": str(tmp_path / "test.jsonl")}
    prompt = {"template": "{a} it was {mask}.", "label_words": ["bad=terrible", "so-so=maybe", "good=great"]}
    return {
        "model": str(model), "own_tasks": [task], "k": [2], "seeds": [13], "formulas": ["sgd"], "dtype": "float64",
        "out": tmp_path / "out", **prompt, **more,
    }  # fmt: skip


def kernels_at(out: Path, side: str) -> dict[int, Kernel]:
    """Return a run's kept kernels against a side by the number of their outputs."""
    kernels = {path.stem: Kernel.load(path) for path in out.glob(f"kernels/*/{side}-sgd*.safetensors")}
    assert set(kernels) == {f"{side}-sgd", f"{side}-sgd-shared"}
    by_outputs = {kernel.values.shape[1]: kernel for kernel in kernels.values()}
    assert by_outputs[1] is kernels[f"{side}-sgd-shared"]
    return by_outputs


def test_a_shared_kernel_beside_the_full_one(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    full, shared = (
        run(make_experiment(values_of(tmp_path, model, classes=name))) for name in ("full", "shared")
    )
    out = tmp_path / "out"
    assert [row["method"] for row in shared if row["formula"]] == ["sgd shared ridge"]
    (centred,) = [row for row in full if row["method"] == "zero-shot, centred"]
    assert set(centred["setting"]) == {f"offset of {name}" for name in CLASSES}
    assert {row["method"] for row in full if row["formula"]} == {"sgd ridge"}
    weights = sign_combinations(3, SIGNS)
    for side in ("train", "dev", "test"):
        both = kernels_at(out, side)
        singles = np.einsum("ncmd,cs,ds->nm", both[3].values, weights, weights) / 2
        np.testing.assert_allclose(both[1].values[:, 0, :, 0], singles, rtol=1e-8)
        assert both[1].provenance["shared"] == {"classes": 3, "signs": SIGNS, "drawing": 2}
        assert "shared" not in both[3].provenance
    # the twin: every class has a kernel of its own, and nothing lies between them
    twins = {
        side: np.einsum("nimj,cd->ncmd", kernels_at(out, side)[1].values, np.eye(3))
        for side in ("train", "dev", "test")
    }
    (record,) = [
        content
        for path in (out / "splits").glob("*.json")
        if "sgd shared ridge" in (content := json.loads(path.read_text()))["predictions"]
    ]
    folder = next(
        path.parent
        for path in out.glob("kernels/*/train-sgd-shared.safetensors")
        if Kernel.load(path).values.shape[1] == 1
    )
    logits, _ = load_arrays(folder / "logits.safetensors")
    inputs = SolverInputs(
        twins["train"], {s: twins[s] for s in ("dev", "test")}, np.asarray(record["train_labels"]), f0=logits
    )
    (row,) = [row for row in record["rows"] if row["formula"]]
    setting = {name: [float(value)] for name, value in row["setting"].items()}
    (expected,) = solve_grid("ridge", inputs, setting)
    predicted, decisions = record["predictions"]["sgd shared ridge"], expected.decisions["test"]
    # the model tells only some of these texts apart, so that classes tie
    np.testing.assert_allclose(decisions[range(len(predicted)), predicted], decisions.max(axis=1), atol=1e-9)
    table = [
        line.split("\t") for line in (out / "predictions").glob("*.tsv").__next__().read_text().splitlines()
    ]
    assert {name for row in table[1:] for name in row[1:]} <= set(CLASSES)
    assert (
        run(make_experiment(values_of(tmp_path, model, classes="shared"))) == shared
    )  # and nothing is mixed up
    # as earlier versions named them
    times = {}
    for path in out.glob("kernels/*/*-sgd-shared.safetensors"):
        earlier = path.rename(path.with_name(path.name.replace("-shared", "")))
        times[earlier] = earlier.stat().st_mtime_ns
    assert run(make_experiment(values_of(tmp_path, model, classes="shared"))) == shared
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert not list(out.glob("kernels/*/*-shared.safetensors"))


def test_contrasts_beside_the_full_kernel(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    rows = {
        name: run(make_experiment(values_of(tmp_path, model, classes=name))) for name in ("full", "contrasts")
    }
    assert [row["method"] for row in rows["contrasts"] if row["formula"]] == ["sgd contrasts ridge"]
    assert [row["method"] for row in rows["full"] if row["formula"]] == ["sgd ridge"]
    centre = np.eye(3) - 1 / 3
    for side in ("train", "dev", "test"):
        both = [Kernel.load(path) for path in (tmp_path / "out").glob(f"kernels/*/{side}-sgd.safetensors")]
        contrasted, full = sorted(both, key=lambda kernel: "contrasts" not in kernel.provenance)
        expected = np.einsum("ncmd,ce,df->nemf", full.values, centre, centre)
        np.testing.assert_allclose(contrasted.values, expected, rtol=1e-8, atol=1e-10)
        assert "contrasts" not in full.provenance
    for name, once in rows.items():
        assert run(make_experiment(values_of(tmp_path, model, classes=name))) == once  # nothing is mixed up


def test_a_run_of_contrasts_is_explained(tmp_path: Path, command_line: CommandLine) -> None:
    model = write_model(tmp_path / "model")
    run(make_experiment(values_of(tmp_path, model, classes="contrasts")))
    (split,) = (tmp_path / "out" / "splits").glob("*.json")
    record = json.loads(split.read_text())
    code, out, _ = command_line("explain", tmp_path / "out", "--out", tmp_path / "explained", "--json")
    assert code == 0
    said = json.loads(out)
    assert said["settings"]["method"] == "sgd contrasts ridge"
    texts = [json.loads(line)["text"] for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    chosen = [texts[number] for number in record["row_numbers"]["test"]]
    decided = dict(zip(chosen, record["predictions"]["sgd contrasts ridge"], strict=True))
    assert said["texts"]
    assert all(each["predicted"] == said["labels"][decided[each["text"]]] for each in said["texts"])


def test_the_rank_of_a_centred_kernel_is_no_alarm() -> None:
    features = np.random.default_rng(0).normal(size=(6, 3, 40))
    centred = features - features.mean(axis=1, keepdims=True)
    labels, grid = np.arange(6) % 3, {"regularization": [0.0], "f0_scale": [np.inf]}
    kernel = np.einsum("ncp,mdp->ncmd", centred, centred)
    with warnings.catch_warnings():
        warnings.simplefilter("error", KernelWarning)
        solve_grid("ridge", SolverInputs(kernel, {"new": kernel}, labels, centred=True), grid)
    twice = np.concatenate([centred[:5], centred[:1]])
    kernel = np.einsum("ncp,mdp->ncmd", twice, twice)
    for inputs in (
        SolverInputs(kernel, {"new": kernel}, labels, centred=True),
        SolverInputs(kernel, {"new": kernel}, labels),
    ):
        with pytest.warns(KernelWarning, match="numerical rank 10 of"):
            solve_grid("ridge", inputs, grid)


def test_two_classes_have_no_contrasts() -> None:
    assert not is_contrasted("contrasts", 2)
    assert is_contrasted("contrasts", 3)


@pytest.mark.parametrize(
    "setting", [{"regularization": 0.1, "f0_scale": 10.0}, {"regularization": 0.0, "f0_scale": np.inf}]
)
def test_ridge_on_a_shared_kernel_is_that_of_each_class_apart(setting: dict[str, float]) -> None:
    random = np.random.default_rng(0)
    features, labels = random.normal(size=(12, 30)), np.arange(8) % 4
    single = features[:8] @ features.T
    f0 = {"train": random.normal(size=(8, 4)), "new": random.normal(size=(4, 4))}
    shared = SolverInputs(
        single[:, None, :8, None], {"new": single[:, None, 8:, None]}, labels, f0=f0, classes=4
    )
    whole = np.einsum("nm,cd->ncmd", single, np.eye(4))
    full = SolverInputs(whole[:, :, :8], {"new": whole[:, :, 8:]}, labels, f0=f0)
    grid = {name: [value] for name, value in setting.items()}
    results = [solve_grid("ridge", inputs, grid, leave_one_out=True)[0] for inputs in (shared, full)]
    np.testing.assert_allclose(results[0].decisions["new"], results[1].decisions["new"], atol=1e-8)
    np.testing.assert_allclose(results[0].loo, results[1].loo, atol=1e-8)
    assert results[0].linear is None
    with pytest.raises(UserError, match="takes no kernel that classes share"):
        solve_grid("logistic", shared)


REFUSED = {
    "a sign formula": ({"formulas": ["sgd", "signgd"]}, "formula signgd"),
    "another solver": ({"solvers": ["ridge", "svc"]}, "solver svc"),
    "a diagnosis": ({"finetune": ["sgd"], "diagnose": True}, "diagnosis"),
    "factors to keep": ({"keep_factors": True}, "--keep-factors"),
    "models to predict with": ({"save_models": True}, "--save-models"),
}


@pytest.mark.parametrize("classes", ["shared", "contrasts"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_a_shared_kernel_cannot_do_is_refused_before_the_model_is_loaded(
    tmp_path: Path, name: str, classes: str
) -> None:
    more, said = REFUSED[name]
    values = values_of(tmp_path, tmp_path / "no-model", classes=classes, **more)
    if (name, classes) == ("another solver", "contrasts"):  # they are a kernel of all logits
        read_tasks(make_experiment(values))
        return
    with pytest.raises(UserError, match=said) as raised:
        read_tasks(make_experiment(values))
    assert "own has 3" in str(raised.value)
    read_tasks(make_experiment(values | {"classes": "auto"}))  # three classes do not share by themselves
