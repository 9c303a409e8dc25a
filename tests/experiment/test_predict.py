"""Solved models as predictors: what they say equals K alpha, and lmntk predict says it line by line."""

from __future__ import annotations

import gzip
import io
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kept import kept_at, latest_at
from predicted_runs import decisions_by_kernel, predicted_values
from tiny import (
    write_adapter,
    write_bart,
    write_classifier,
    write_gpt2,
    write_model,
    write_t5,
)

from lmntk.errors import UserError
from lmntk.experiment.configuration import make_experiment
from lmntk.experiment.run import run
from lmntk.prediction.files import load_predictor
from lmntk.prediction.predictor import Predictor
from lmntk.prompts.encoding import EncodedText
from lmntk.solvers.calibration import fit_sharpness
from lmntk.tasks import read_jsonl

Lines = list[dict[str, Any]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name, write in {
        "bert": write_model,
        "gpt2": write_gpt2,
        "t5": write_t5,
        "bart": write_bart,
        "classifier": write_classifier,
    }.items():
        write(folder / name)
    write_adapter(folder / "lora", folder / "gpt2", "CAUSAL_LM")
    return folder


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    return predicted_values(tmp_path)


@pytest.fixture
def lmntk(command_line):
    return command_line


def predicted(lmntk: Callable[..., tuple[int, str, str]], *arguments: object) -> Lines:
    code, out, errors = lmntk("predict", *arguments)
    assert code == 0, errors
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("model", "mode", "methods"),
    [
        ("bert", "prompt", {"sgd": ["ridge", "logistic", "svc", "svr"], "asigngd": ["ridge"]}),
        ("bert", "head", {"sgd": ["ridge"], "asigngd": ["ridge"]}),
        ("gpt2", "prompt", {"sgd": ["ridge"]}),
        ("lora", "prompt", {"sgd": ["ridge"], "asigngd": ["ridge"]}),
        ("t5", "prompt", {"sgd": ["ridge"]}),
        ("bart", "head", {"sgd": ["svr"]}),
        ("classifier", "head", {"sgd": ["logistic"]}),
    ],
)
@pytest.mark.parametrize("all_logits", [False, True])
def test_what_a_predictor_says_is_what_the_kernel_said(
    models, values, lmntk, monkeypatch, tmp_path, model, mode, methods, all_logits
):
    if model in ("gpt2", "lora", "t5"):
        values["own_tasks"][0]["template"] = "{a} it was" if model != "t5" else "{a} it was {mask}."
    if model == "t5":
        values["own_tasks"][0]["label_words"] = ["bad", "good"]
    expected = decisions_by_kernel(monkeypatch)
    solvers = sorted({solver for each in methods.values() for solver in each})
    rows = run(make_experiment(values | {"model": str(models / model), "modes": [mode], "formulas": list(methods), "solvers": solvers,
                                         "all_logits": all_logits}))  # fmt: skip
    linear = {f"{f} {s}" for f, each in methods.items() for s in each} - (
        {"sgd svc"} if all_logits else set()
    )
    tests = read_jsonl(tmp_path / "test.jsonl")
    for method in sorted(linear):
        name = f"films-k4-seed13-{mode}-{method.replace(' ', '-')}"
        loaded = load_predictor(kept_at(tmp_path / "out" / "models" / name))
        found, _ = loaded.predictor.evaluate([loaded.encoder.encode(example) for example in tests])
        np.testing.assert_allclose(
            found, expected[method], rtol=0, atol=1e-5 * np.abs(expected[method]).max()
        )
        lines = predicted(lmntk, tmp_path / "out", "--method", method, tmp_path / "test.jsonl")
        np.testing.assert_allclose([line["decisions"] for line in lines], found, rtol=1e-9, atol=1e-12)
        by_column = [
            line.split("\t")
            for line in kept_at(tmp_path / "out" / "predictions" / f"films-k4-seed13-{mode}.tsv")
            .read_text()
            .splitlines()
        ]
        column = by_column[0].index(method)
        assert [line["label"] for line in lines] == [splits[column] for splits in by_column[1:]]
        for line in lines:
            assert sum(line["probabilities"]) == pytest.approx(1, abs=1e-5)
            assert line["probabilities"][line["class"]] == max(line["probabilities"])
    assert {path.name[:-9] for path in (tmp_path / "out" / "models").iterdir()} == {
        f"films-k4-seed13-{mode}-{method.replace(' ', '-')}" for method in linear
    }
    assert any(row["method"] in linear for row in rows)


def test_asymmetric_solutions_of_mixture_one_are_linear_class_by_class(models, values, monkeypatch, tmp_path):
    expected = decisions_by_kernel(monkeypatch)
    monkeypatch.setattr("lmntk.solvers.grid.MIXTURES", (1.0,))

    def only_omega(*arguments: Any) -> Any:
        from lmntk.solvers import selection

        results = arguments[0]
        return selection.select_on_dev(
            [one for one in results if one.setting["mixture"] == 1.0], *arguments[1:]
        )

    monkeypatch.setattr("lmntk.solvers.outcome.select_on_dev", only_omega)
    run(
        make_experiment(values | {"model": str(models / "bert"), "formulas": ["asigngd"], "all_logits": True})
    )
    loaded = load_predictor(kept_at(tmp_path / "out" / "models" / "films-k4-seed13-prompt-asigngd-asym"))
    assert len(loaded.predictor.linearized) == 2
    tests = [loaded.encoder.encode(example) for example in read_jsonl(tmp_path / "test.jsonl")]
    found, _ = loaded.predictor.evaluate(tests)
    np.testing.assert_allclose(found, expected["asigngd asym"], rtol=0, atol=1e-5 * np.abs(found).max())


@pytest.fixture
def solved(models: Path, values: dict[str, Any]) -> Path:
    run(
        make_experiment(
            values
            | {
                "model": str(models / "bert"),
                "formulas": ["sgd"],
                "solvers": ["ridge", "logistic"],
                "seeds": [13, 21],
            }
        )
    )
    return Path(values["out"])


def test_what_is_no_regular_file_is_written_to_and_links_are_followed(solved, lmntk, tmp_path):
    flags = [
        solved,
        "--split",
        "films-k4-seed21-prompt",
        "--method",
        "sgd ridge",
        tmp_path / "test.jsonl",
    ]
    whole = tmp_path / "whole.jsonl"
    assert lmntk("predict", *flags, "--out", whole)[0] == 0
    (tmp_path / "real.jsonl").write_text("old")
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "real.jsonl")
    assert lmntk("predict", *flags, "--out", tmp_path / "link.jsonl")[0] == 0
    assert (tmp_path / "link.jsonl").is_symlink() and (
        tmp_path / "real.jsonl"
    ).read_text() == whole.read_text()
    os.mkfifo(tmp_path / "pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()), daemon=True)
    reader.start()
    assert lmntk("predict", *flags, "--out", tmp_path / "pipe")[0] == 0
    reader.join(10)
    assert read == [whole.read_text()] and (tmp_path / "pipe").is_fifo()
    writer = threading.Thread(
        target=lambda: (tmp_path / "pipe").write_text((tmp_path / "test.jsonl").read_text()), daemon=True
    )
    writer.start()
    assert lmntk("predict", *flags[:-1], tmp_path / "pipe", "--out", tmp_path / "piped.jsonl")[0] == 0
    writer.join(10)
    assert (tmp_path / "piped.jsonl").read_text() == whole.read_text()


def test_a_predictor_cut_short_while_saved_again_is_none(solved, models, values, monkeypatch):
    again = values | {
        "model": str(models / "bert"),
        "formulas": ["sgd"],
        "solvers": ["ridge", "logistic"],
        "seeds": [13, 21],
    }
    again["own_tasks"] = [values["own_tasks"][0] | {"template": "it is {mask}: {a}"}]
    written = "lmntk.prediction.files.write_record"
    monkeypatch.setattr(written, lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(make_experiment(again))
    begun = latest_at(solved / "models" / "films-k4-seed13-prompt-sgd-ridge")
    assert (begun / "direction.safetensors").is_file()
    with pytest.raises(UserError):
        load_predictor(begun)


def test_streams_of_any_kind(solved, lmntk, tmp_path, monkeypatch):
    monkeypatch.setattr("lmntk.prediction.stream.WINDOW", 2)
    texts = [json.loads(line)["text_a"] for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    flags = [
        solved,
        "--split",
        "films-k4-seed21-prompt",
        "--method",
        "sgd logistic",
        "--batch-size",
        "3",
    ]
    whole = predicted(lmntk, *flags, tmp_path / "test.jsonl")
    assert len(whole) == len(texts) == 20
    with gzip.open(tmp_path / "texts.jsonl.gz", "wt") as file:
        file.write("".join(json.dumps({"text": text}) + "\n\n" for text in texts))
    assert predicted(lmntk, *flags, tmp_path / "texts.jsonl.gz") == whole
    monkeypatch.setattr(sys, "stdin", io.StringIO((tmp_path / "test.jsonl").read_text()))
    assert predicted(lmntk, *flags, "-") == whole
    code, out, _ = lmntk(
        "predict",
        *flags,
        tmp_path / "test.jsonl",
        "--out",
        tmp_path / "o" / "classes.jsonl",
        "--json",
    )
    assert code == 0
    assert json.loads(out)["texts"] == 20
    assert [json.loads(line) for line in (tmp_path / "o" / "classes.jsonl").read_text().splitlines()] == whole
    code, _, errors = lmntk("predict", solved, tmp_path / "test.jsonl")
    assert code == 0
    assert "of 4 predictors, the best on dev" in errors


def test_mistakes(solved, models, lmntk, tmp_path):
    texts = tmp_path / "test.jsonl"
    broken, empty, untextual = (
        tmp_path / "broken.jsonl",
        tmp_path / "empty.jsonl",
        tmp_path / "untextual.jsonl",
    )
    broken.write_text('{"text_a": "good"}\n{"text_a": \n')
    empty.write_text("\n")
    untextual.write_text('{"text_b": "good"}\n')
    other = write_model(tmp_path / "other", seed=5)
    cases = [
        (
            [tmp_path, texts],
            "holds no predictor; make one with `lmntk fit FILE`, or with `lmntk run ... --save-models`",
        ),
        ([solved, tmp_path / "no.jsonl"], "does not exist"),
        ([solved, broken], "line 2: not JSON"),
        ([solved, empty], "holds no text"),
        ([solved, untextual], "no column 'text'"),
        (
            [solved, texts, "--split", "none"],
            "has no predictor of split 'none'; it has films-k4",
        ),
        ([solved, texts, "--model", other], "has other weights than the model"),
        ([solved, texts, "--out", texts], "is the input"),
        (
            [solved, texts, "--device", "cpu", "--device-memory", "4GiB"],
            "cpu has no memory of its own",
        ),
    ]
    for arguments, words in cases:
        target = [] if "--out" in arguments else ["--out", tmp_path / "written.jsonl"]
        code, out, errors = lmntk("predict", *arguments, *target)
        lines = [line for line in errors.splitlines() if line.startswith("lmntk: ")]
        assert (code, out, len(lines)) == (2, "", 1), errors
        assert words in lines[0]
        assert not (tmp_path / "written.jsonl").exists()
    direction = kept_at(solved / "models" / "films-k4-seed13-prompt-sgd-ridge") / "direction.safetensors"
    direction.write_bytes(direction.read_bytes()[:-50])
    code, _, errors = lmntk("predict", direction.parent, texts)
    assert code == 2
    assert "is damaged" in errors and "run again what wrote it" in errors


class Mixing(torch.nn.Module):
    """A model that takes the batch's mean off: a text's logits are its own only when it is alone."""

    outputs = 1

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = torch.nn.Embedding(9, 4), torch.nn.Linear(4, 1)
        self.double()

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        logits: torch.Tensor = self.head(torch.tanh(self.table(batch["input_ids"]).sum(1)))
        return logits + logits.mean(0)


def test_a_model_that_mixes_texts_predicts_them_one_by_one():
    model: Any = Mixing()
    direction = {name: torch.randn_like(parameter) for name, parameter in model.named_parameters()}
    texts = [EncodedText((1 + i, 2, 8 - i), 0, None) for i in range(5)]
    alone = [Predictor(model, [direction], 0).evaluate([text])[0] for text in texts]
    predictor = Predictor(model, [direction], 0)
    predictor.evaluate(texts[:1])  # one text shows nothing, and is not to settle it
    np.testing.assert_allclose(predictor.evaluate(texts)[0], np.concatenate(alone), rtol=1e-10)


def test_sharpness_maximises_the_likelihood():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(4000, 3)) * 2
    labels = np.array([generator.choice(3, p=np.exp(row) / np.exp(row).sum()) for row in logits])
    assert fit_sharpness(logits / 50, labels) == pytest.approx(50, rel=0.1)
    decision = (logits[:, 1] - logits[:, 0])[:, None]
    binary = (generator.random(4000) < 1 / (1 + np.exp(-decision[:, 0]))).astype(np.int64)
    assert fit_sharpness(decision, binary) == pytest.approx(1, rel=0.1)
    assert np.isfinite(fit_sharpness(np.array([[1.0], [-1.0]]), np.array([1, 0])))
