"""Solved models as predictors: what they say equals K alpha, and lmntk predict says it line by line."""

from __future__ import annotations

import gzip
import io
import json
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kept import kept_at, latest_at
from safetensors.torch import load_file
from tiny import (
    films,
    write_adapter,
    write_bart,
    write_classifier,
    write_gpt2,
    write_model,
    write_t5,
)

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
from lmntk.prediction.files import load_predictor
from lmntk.prediction.predictor import Predictor, fit_sharpness
from lmntk.prompts.encoding import EncodedText
from lmntk.system.progress import Silent
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
    own = films(tmp_path, 40, 20)
    return {
        "own_tasks": [own],
        "k": [4],
        "seeds": [13],
        "out": tmp_path / "out",
        "save_models": True,
        "dtype": "float64",
    }


@pytest.fixture
def lmntk(command_line):
    return command_line


def decisions_by_kernel(monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Returns, after a run, each method's decisions on the test texts, as its kernel made them."""
    found: dict[str, np.ndarray] = {}
    with_test = solving.Outcome.with_test

    def noted(self: Any, decisions: np.ndarray, labels: Any) -> Any:
        found[self.method] = decisions
        return with_test(self, decisions, labels)

    monkeypatch.setattr(solving.Outcome, "with_test", noted)
    return found


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
        assert [line["class"] for line in lines] == [int(splits[column]) for splits in by_column[1:]]
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
