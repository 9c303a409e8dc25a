"""Head mode and classifiers of every kind, against plain features and the checkpoint's own head."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from every_kind import (
    EXACT,
    LOOSE,
    Command,
    assert_close,
    autograd,
    base_of,
    kernel_of,
    network_of,
    read,
    run_flags,
)
from kept import kept_at
from sklearn.linear_model import LogisticRegression
from tiny import write_classifier
from torch import Tensor

from lmntk.kernels.kernel import Kernel
from lmntk.system.kept import load_arrays


def features(network: Any, tokenizer: Any, text: str, kind: str, model: str) -> Tensor:
    encoded = tokenizer(text, return_tensors="pt")
    if model in ("t5", "bart"):
        start = torch.tensor([[network.config.decoder_start_token_id]])
        return network(**encoded, decoder_input_ids=start, output_hidden_states=True).decoder_hidden_states[
            -1
        ][0, 0]
    hidden = (
        network.base_model(**encoded).last_hidden_state[0]
        if "lora" not in model
        else network.base_model.model.bert(**encoded)[0][0]
    )
    if kind == "mean":
        return hidden.mean(0)
    return hidden[-1 if model in ("gpt2", "llama") else 0]


HEADS = [
    ("bert", "read"),
    ("bert", "mean"),
    ("gpt2", "read"),
    ("gpt2", "mean"),
    ("llama", "read"),
    ("t5", "read"),
    ("bart", "read"),
]
HEADS += [("lora-bert", "read")]


@pytest.mark.one_in(2)
@pytest.mark.parametrize(("model", "kind"), HEADS, ids=["-".join(head) for head in HEADS])
def test_head_mode_starts_at_the_probe_of_plain_features(
    folder: Path, tmp_path: Path, lmntk: Command, model: str, kind: str
) -> None:
    flags = run_flags(
        folder, model, tmp_path, "--modes", "head", *([] if kind == "read" else ["--features", kind])
    )
    rows = json.loads(lmntk.works(*flags))
    assert [row["method"] for row in rows] == ["linear probe", "sgd ridge"]
    network, tokenizer = network_of(folder, model), hf.AutoTokenizer.from_pretrained(folder / base_of(model))
    split = json.loads(kept_at(tmp_path / "splits" / "own-k2-seed13-head.json").read_text())["row_numbers"]
    texts = {
        "train": [read(folder / "train.jsonl")[row] for row in split["train"]],
        "test": read(folder / "test.jsonl"),
    }
    read_ = {
        side: [features(network, tokenizer, row["text_a"], kind, model) for row in part]
        for side, part in texts.items()
    }
    x = torch.stack(read_["train"]).detach().numpy()
    probe = LogisticRegression(max_iter=10_000, tol=1e-4).fit(x, [row["label"] for row in texts["train"]])
    weight = torch.tensor(np.concatenate([-probe.coef_, probe.coef_]) / 2, requires_grad=True)
    bias = torch.tensor(np.concatenate([-probe.intercept_, probe.intercept_]) / 2, requires_grad=True)
    logits = {
        side: [(weight @ h + bias)[1:] - (weight @ h + bias)[:1] for h in part]
        for side, part in read_.items()
    }
    kept, _ = load_arrays(kept_at(tmp_path / "kernels" / "own-k2-seed13-head") / "logits.safetensors")
    assert_close(kept["test"], torch.stack(logits["test"]).detach().numpy(), LOOSE)
    found = Kernel.load(kept_at(tmp_path / "kernels" / "own-k2-seed13-head") / "test-sgd.safetensors").values
    jacobians = {side: autograd(network, part, (weight, bias)) for side, part in logits.items()}
    assert_close(found, kernel_of(jacobians["train"], jacobians["test"]), LOOSE)
    streams = lmntk.streams
    assert json.loads(lmntk.works(*flags)) == rows and lmntk.streams == streams


def test_features_that_a_model_has_not_are_refused_before_any_work(
    folder: Path, tmp_path: Path, lmntk: Command
) -> None:
    prompt = ["--template", "{a} it was", "--label-words", "terrible,great"]
    for model in ("t5", "bart"):
        flags = run_flags(
            folder, model, tmp_path / "out", "--modes", "prompt,head", "--features", "mean", *prompt
        )
        lmntk.refuses("use read, not mean", *flags)
    for features in ("pooled", "max"):
        lmntk.refuses(
            "'read' or 'mean'",
            *run_flags(folder, "bert", tmp_path / "out", "--modes", "head", "--features", features),
        )
    lmntk.refuses(
        "leave 'mean' out",
        *run_flags(folder, "classifier", tmp_path / "out", "--modes", "head", "--features", "mean"),
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("model", ["classifier", "gpt2-classifier", "lora-classifier"])
def test_a_classifier_starts_at_its_own_head(
    folder: Path, tmp_path: Path, lmntk: Command, model: str
) -> None:
    flags = run_flags(folder, model, tmp_path, "--modes", "head", "--seeds", "13,21")
    rows = json.loads(lmntk.works(*flags))
    assert [row["method"] for row in rows] == ["own head", "sgd ridge"] * 2
    network, tokenizer = network_of(folder, model), hf.AutoTokenizer.from_pretrained(folder / base_of(model))
    texts = {"train": read(folder / "train.jsonl"), "test": read(folder / "test.jsonl")}
    raw = {
        side: [network(**tokenizer(row["text_a"], return_tensors="pt")).logits[0] for row in part]
        for side, part in texts.items()
    }
    logits = {side: [one[1:] - one[:1] for one in part] for side, part in raw.items()}
    jacobians = {side: autograd(network, part) for side, part in logits.items()}
    for seed, row in ((13, rows[0]), (21, rows[2])):
        name = f"own-k2-seed{seed}-head"
        split = json.loads(kept_at(tmp_path / "splits" / f"{name}.json").read_text())["row_numbers"]
        kept, _ = load_arrays(kept_at(tmp_path / "kernels" / name) / "logits.safetensors")
        expected = torch.stack(logits["test"]).detach().numpy()
        assert_close(kept["test"], expected, EXACT)
        assert row["test"] == pytest.approx(
            np.mean((expected[:, 0] > 0) == [text["label"] for text in texts["test"]])
        )
        found = Kernel.load(kept_at(tmp_path / "kernels" / name) / "test-sgd.safetensors").values
        assert_close(found, kernel_of(jacobians["train"][split["train"]], jacobians["test"]), EXACT)
    assert (
        lmntk.streams == 1
    )  # the head is the same for every split, so the test texts are pushed through once
    assert json.loads(lmntk.works(*flags)) == rows and lmntk.streams == 1


def test_a_head_of_other_classes_is_refused_even_where_a_result_is_there(
    folder: Path, tmp_path: Path, lmntk: Command
) -> None:
    model = tmp_path / "model"
    shutil.copytree(folder / "classifier", model)
    flags = run_flags(folder, str(model), tmp_path / "out", "--modes", "head")
    rows = json.loads(lmntk.works(*flags))
    rename(model, "1", "0")
    lmntk.refuses("has the classes in the order 1, 0", *flags)
    rename(
        model, "NEGATIVE", "POSITIVE"
    )  # names that the texts' labels are not: their numbers say which is which
    assert json.loads(lmntk.works(*flags)) == rows and lmntk.streams == 1
    write_classifier(tmp_path / "three", ("bad", "so-so", "good"))
    three = run_flags(folder, str(tmp_path / "three"), tmp_path / "out", "--modes", "head")
    lmntk.refuses("has a head of 3 classes (bad, so-so, good), and the task has 2", *three)


def test_classes_are_compared_as_labels_are(folder: Path, tmp_path: Path, lmntk: Command) -> None:
    write_classifier(tmp_path / "model", ("Not_Good", "Very-Good"))
    for name in ("train", "test"):
        texts = [
            row | {"label": ("not good", "very good")[row["label"]]} for row in read(folder / f"{name}.jsonl")
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    flags = run_flags(tmp_path, "model", tmp_path / "out", "--modes", "head")
    lmntk.works(*flags, "--labels", "not good,very good")
    lmntk.refuses("in the order Not_Good, Very-Good", *flags, "--labels", "very good,not good")
    lmntk.works(*flags, "--labels", "Not_Good,Very-Good")


def rename(model: Path, *names: str) -> None:
    config = json.loads((model / "config.json").read_text())
    config |= {
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
    }
    (model / "config.json").write_text(json.dumps(config))
