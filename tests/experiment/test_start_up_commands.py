"""Models that break an invariant, as the commands meet them: said, refused, and the same for every size of batches."""

from __future__ import annotations

import json

import pytest
import torch
import transformers as hf
from safetensors.numpy import load_file
from tiny import write_model, write_rows
from transformers import AutoTokenizer

from lmntk.experiment.steps import solve
from lmntk.solvers.baselines import baselines

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}
PROMPT = ["--template", "{a} It was {mask}.", "--label-words", "terrible,great"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("start-up")
    write_model(base / "bert")
    write_rows(base / "train.jsonl", 6)
    write_rows(base / "eval.jsonl", 5)
    tokenizer = AutoTokenizer.from_pretrained(base / "bert")
    torch.manual_seed(0)
    network = hf.FNetForMaskedLM(hf.FNetConfig(vocab_size=len(tokenizer), tpu_short_seq_length=64, **SIZES))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    network.save_pretrained(base / "fnet")
    tokenizer.save_pretrained(base / "fnet")
    return base


@pytest.fixture
def lmntk(command_line):
    return command_line


def test_kernels_of_a_model_that_mixes_padding_in(folder, lmntk, tmp_path):
    values = []
    for size in (1, 4):
        out = tmp_path / str(size)
        code, printed, _ = lmntk(
            "kernel", "--model", folder / "fnet", "--train", folder / "train.jsonl", "--eval", folder / "eval.jsonl",
            *PROMPT, "--formulas", "sgd", "--batch-size", size, "--out", out,
        )  # fmt: skip
        assert code == 0
        assert "one text at a time" in printed and "depend on its padding or its batch" in printed
        values.append(load_file(out / "sgd.safetensors")["values"])
    assert (values[0] == values[1]).all()


def test_the_doctor_says_it_too(folder, lmntk):
    code, printed, _ = lmntk("check", folder / "fnet", *PROMPT, "--json")
    report = {finding["check"]: finding for finding in json.loads(printed)["findings"]}
    assert code == 1
    assert "one text at a time, unpadded" in report["batch"]["line"]
    assert "depend on its padding or its batch" in report["speed"]["line"]
    assert report["reading"]["level"] == report["gradients"]["level"] == "fine"


def test_a_run_says_it_and_is_the_same_for_every_size_of_batches(folder, lmntk, tmp_path):
    """In head mode too, where the head is fitted to features first."""
    results = []
    for size in (1, 4):
        code, printed, said = lmntk(
            "run", "--model", folder / "fnet", "--train", folder / "train.jsonl", "--test", folder / "eval.jsonl",
            "--text-column", "text_a",
            *PROMPT, "--modes", "prompt,head", "--k", 1, "--seeds", 13, "--formulas", "sgd", "--batch-size", size,
            "--out", tmp_path / str(size), "--json",
        )  # fmt: skip
        assert code == 0, said
        assert " ".join(said.split()).count("; one text at a time") == 2
        results.append(json.loads(printed))
    assert results[0] == results[1]


def test_a_reading_that_is_not_the_networks_is_refused(folder, lmntk, tmp_path, monkeypatch):
    """A network that takes the positions that are handed in for something else."""
    forward = hf.BertForMaskedLM.forward

    def other(self, input_ids=None, use_cache=None, **keywords):
        output = forward(self, input_ids=input_ids, **keywords)
        return output if use_cache is None else type(output)(logits=2 * output.logits)

    monkeypatch.setattr(hf.BertForMaskedLM, "forward", other)
    words = ["--train", folder / "train.jsonl", "--eval", folder / "eval.jsonl", *PROMPT, "--out", tmp_path]
    code, _, said = lmntk("kernel", "--model", folder / "bert", *words)
    mapping, mistake = said.strip().splitlines()
    assert code == 2 and mapping.startswith("classes: ") and mistake.startswith("lmntk: model: ")
    assert "the label words' logits at the position that is read of BertForMaskedLM differ by" in said
    code, printed, _ = lmntk("check", folder / "bert", *PROMPT)
    assert code == 1 and "FAULT  reading: the label words' logits" in printed


def test_finetunes_zero_shot_baseline_is_the_same_for_every_size_of_batches(
    folder, lmntk, tmp_path, monkeypatch
):
    """Seen in the logits, for a metric of few texts hides much; looks at dev are in batches too."""
    seen = []
    monkeypatch.setattr(solve, "baselines", lambda *given: seen.append(given[2]) or baselines(*given))
    for size in (1, 4):
        code, _, said = lmntk(
            "finetune", "--model", folder / "fnet", "--train", folder / "train.jsonl", "--test", folder / "eval.jsonl",
            "--text-column", "text_a", *PROMPT, "--k", 1, "--seeds", 13, "--batch-size", size,
            "--optimizers", "sgd", "--learning-rates", "1e-3", "--batch-sizes", "2", "--steps", 1, "--eval-every", 1,
            "--out", tmp_path / str(size), "--json",
        )  # fmt: skip
        assert code == 0, said
        assert " ".join(said.split()).count("one at a time, unpadded") == 1
    for side in ("dev", "test"):
        assert (seen[0][side] == seen[1][side]).all()
