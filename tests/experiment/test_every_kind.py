"""Whole commands on every kind of model: kernels beside plain autograd, baselines beside the plain network, mistakes in one line.

The oracle knows nothing of this package: a Hugging Face network's ordinary forward on one text at a time, as its own tokenizer
encodes it, and ``torch.autograd.grad`` of every logit, in float64.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers as hf
from sklearn.linear_model import LogisticRegression
from tiny import write_adapter, write_bart, write_classifier, write_gpt2, write_llama, write_model, write_rows, write_t5
from torch import Tensor

from lmntk import unit as unit_module
from lmntk.cli import main
from lmntk.kernels import compute
from lmntk.kernels.kernel import Kernel, load_tensors

SPLIT = ["--k", "2", "--seeds", "13", "--formulas", "sgd", "--dtype", "float64"]
EXACT, LOOSE = 1e-10, 1e-6  # loose where the library computes norms in float32, and where a probe is fitted


# --- the folder and the command ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("kinds")
    write_model(base / "bert")
    write_gpt2(base / "gpt2")
    write_llama(base / "llama")
    write_t5(base / "t5")
    write_bart(base / "bart")
    write_classifier(base / "classifier", ("0", "1"))
    write_gpt2(base / "gpt2-classifier", network=hf.GPT2ForSequenceClassification)
    write_adapter(base / "lora-bert", base / "bert")
    write_adapter(base / "lora-gpt2", base / "gpt2", "CAUSAL_LM")
    write_adapter(base / "lora-head-bert", base / "bert", target_modules=["query", "decoder"])
    write_adapter(base / "lora-saved-gpt2", base / "gpt2", "CAUSAL_LM", modules_to_save=["lm_head"])
    write_adapter(base / "lora-classifier", base / "classifier", "SEQ_CLS")
    write_rows(base / "few.jsonl", 4)
    write_rows(base / "other.jsonl", 3, offset=1)
    write_rows(base / "train.jsonl", 12)
    write_rows(base / "test.jsonl", 7, offset=1)
    return base


@dataclass
class Command:
    """The command line, run in this process, and how often it computed kernels."""

    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]
    streams: int = 0

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        self.monkeypatch.setattr(sys, "argv", ["lmntk", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, errors = self.capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, out, errors

    def works(self, *arguments: object) -> str:
        code, out, errors = self(*arguments)
        assert code == 0, errors
        return out

    def refuses(self, words: str, *arguments: object) -> None:
        """The command ends with code 2 and one line, and has computed nothing."""
        before = self.streams
        code, out, errors = self(*arguments)
        lines = [line for line in errors.splitlines() if line.strip()]
        assert code == 2 and out == "" and len(lines) == 1, errors
        assert lines[0].startswith("lmntk: ") and words in lines[0], lines[0]
        assert self.streams == before


@pytest.fixture
def lmntk(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    made = Command(monkeypatch, capsys)
    for module in (unit_module, compute):

        def counted(*arguments: Any, wrapped: Callable[..., Any] = module.stream_kernels, **named: Any) -> Any:
            made.streams += 1
            return wrapped(*arguments, **named)

        monkeypatch.setattr(module, "stream_kernels", counted)
    return made


def kernel_flags(folder: Path, model: str, templates: Sequence[str], words: str, out: Path, *more: str) -> list[object]:
    prompts = [part for template in templates for part in ("--template", template)]
    texts = ["--train", folder / "few.jsonl", "--eval", folder / "other.jsonl"]
    fixed = ["--label-words", words, "--formulas", "sgd", "--dtype", "float64", "--out", out]
    return ["kernel", "--model", folder / model, *texts, *prompts, *fixed, *more]


def run_flags(folder: Path, model: str, out: Path, *more: str) -> list[object]:
    texts = ["--train", folder / "train.jsonl", "--test", folder / "test.jsonl", "--text-column", "text_a"]
    return ["run", "--model", folder / model, *texts, *SPLIT, "--out", out, "--json", *more]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- the oracle -------------------------------------------------------------------------------------------------------------------


def base_of(model: str) -> str:
    """Returns the folder of the model that an adapter is on."""
    return model if "lora" not in model else model.rsplit("-", 1)[-1]


def network_of(folder: Path, model: str) -> Any:
    """Returns a folder's network in float64, an adapter's as a ``PeftModel`` in which only the adapter is trained."""
    kinds = {"gpt2": hf.AutoModelForCausalLM, "llama": hf.AutoModelForCausalLM, "bert": hf.AutoModelForMaskedLM}
    kinds |= {"t5": hf.AutoModelForSeq2SeqLM, "bart": hf.AutoModelForSeq2SeqLM}
    kinds |= dict.fromkeys(("classifier", "gpt2-classifier"), hf.AutoModelForSequenceClassification)
    base = base_of(model)
    network = kinds[base].from_pretrained(folder / base, dtype=torch.float64)
    if base != model:
        network = peft.PeftModel.from_pretrained(network, folder / model, is_trainable=True).double()
        grown = [p for name, p in network.named_parameters() if "lora_B" in name]
        assert grown and all(p.abs().sum() > 0 for p in grown)
    return network.eval()


def autograd(network: torch.nn.Module, logits: Sequence[Tensor], extra: Sequence[Tensor] = ()) -> Tensor:
    """Returns the Jacobian [n, c, p] of every text's logits [c], over the parameters that are trained."""
    parameters = [p for p in network.parameters() if p.requires_grad] + list(extra)
    rows = []
    for of_text in logits:
        for value in of_text:
            found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
            rows.append(torch.cat([torch.zeros(p.numel()) if g is None else g.flatten() for g, p in zip(found, parameters, strict=True)]))
    return torch.stack(rows).reshape(len(logits), len(logits[0]), -1)


def kernel_of(rows: Tensor, columns: Tensor) -> np.ndarray:
    return torch.einsum("ncp,mdp->ncmd", rows, columns).numpy()


def assert_close(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


@dataclass(frozen=True)
class Case:
    """A model, its prompt as flags, and the same prompt as the oracle writes it.

    ``written`` are the prompts with %s for the text; ``classes`` the tokens and weights of each class.
    """

    model: str
    templates: tuple[str, ...]
    words: str
    written: tuple[str, ...]
    classes: tuple[dict[str, float], ...]
    flags: tuple[str, ...] = ()
    decoder: tuple[str, ...] | None = None
    tolerance: float = EXACT

    def logits(self, network: Any, tokenizer: Any, text: str) -> Tensor:
        """Returns the classes' logits [c], or with two classes their difference [1]."""
        whole = torch.stack([self._one(network, tokenizer, written % text) for written in self.written]).mean(0)
        ids = {token: tokenizer.convert_tokens_to_ids(token) for row in self.classes for token in row}
        assert tokenizer.unk_token is None or tokenizer.unk_token_id not in ids.values()
        classes = torch.stack([sum(weight * whole[ids[token]] for token, weight in row.items()) for row in self.classes])
        return classes if "--all-logits" in self.flags or len(classes) > 2 else classes[1:] - classes[:1]

    def _one(self, network: Any, tokenizer: Any, text: str) -> Tensor:
        encoded = tokenizer(text, return_tensors="pt")
        if self.decoder is not None:
            start = network.config.decoder_start_token_id
            ids = [start, *map(tokenizer.convert_tokens_to_ids, self.decoder)]
            return network(**encoded, decoder_input_ids=torch.tensor([ids])).logits[0, -1]
        places = (encoded["input_ids"][0] == tokenizer.mask_token_id).nonzero() if tokenizer.mask_token_id is not None else []
        return network(**encoded).logits[0, int(places[0]) if len(places) else -1]


PLAIN = ({"terrible": 1.0}, {"great": 1.0})
BYTES = ({"Ġterrible": 1.0}, {"Ġgreat": 1.0})
SPACED = ({"▁terrible": 1.0}, {"▁great": 1.0})
BERT = Case("bert", ("{a} it was {mask}.",), "terrible,great", ("%s it was [MASK] .",), PLAIN)
GPT2 = Case("gpt2", ("{a} it was",), "terrible,great", ("%s it was",), BYTES)
LLAMA = Case("llama", ("{a} it was",), "terrible,great", ("%s it was",), PLAIN, tolerance=LOOSE)
T5 = Case("t5", ("{a} it was",), "terrible,great", ("%s it was",), SPACED, decoder=(), tolerance=LOOSE)
BART = Case("bart", ("{a} it was",), "terrible,great", ("%s it was",), BYTES, decoder=())

CASES = {
    "gpt2": GPT2,
    "gpt2 cut at its mask": replace(GPT2, templates=("{a} it was {mask}.",)),
    "gpt2 all logits": replace(GPT2, flags=("--all-logits",)),
    "gpt2 several templates": replace(GPT2, templates=("{a} it was", "the film , {a} is"), written=("%s it was", "the film , %s is")),
    "gpt2 tokens' mean": replace(
        GPT2, words="terrible,superb", classes=({"Ġterrible": 1.0}, {"Ġsuper": 0.5, "b": 0.5}), flags=("--label-words-reduce", "mean")
    ),
    "llama": LLAMA,
    "t5 decoder's first": T5,
    "t5 sentinel": replace(T5, templates=("{a} it was {mask}",), written=("%s it was<extra_id_0>",), decoder=("<extra_id_0>",)),
    "t5 several templates": replace(
        T5,
        templates=("{a} it was {mask}", "is it {mask} , {a}"),
        written=("%s it was<extra_id_0>", "is it<extra_id_0> , %s"),
        decoder=("<extra_id_0>",),
    ),
    "bart decoder's first": BART,
    "bart mask": replace(BART, templates=("{a} it was {mask}.",), written=("%s it was<mask>.",)),
    "bert several templates": replace(
        BERT, templates=("{a} it was {mask}.", "a {mask} film, {a}"), written=("%s it was [MASK] .", "a [MASK] film, %s")
    ),
    "bert several words": replace(
        BERT,
        words="terrible|bad,great|good|fun",
        classes=({"terrible": 1 / 2, "bad": 1 / 2}, dict.fromkeys(("great", "good", "fun"), 1 / 3)),
    ),
    "bert first token": replace(
        BERT, words="terrible,superb", classes=({"terrible": 1.0}, {"super": 1.0}), flags=("--label-words-reduce", "first")
    ),
    "bert tokens' mean": replace(
        BERT,
        words="terrible,superb|good",
        classes=({"terrible": 1.0}, {"super": 0.25, "##b": 0.25, "good": 0.5}),
        flags=("--label-words-reduce", "mean"),
    ),
    "bert three classes": replace(BERT, words="bad,maybe,good", classes=({"bad": 1.0}, {"maybe": 1.0}, {"good": 1.0})),
    "lora on bert": replace(BERT, model="lora-bert"),
    "lora on bert, several templates and words": replace(
        BERT,
        model="lora-bert",
        templates=("{a} it was {mask}.", "a {mask} film, {a}"),
        written=("%s it was [MASK] .", "a [MASK] film, %s"),
        words="terrible|bad,great",
        classes=({"terrible": 0.5, "bad": 0.5}, {"great": 1.0}),
    ),
    "lora on gpt2": replace(GPT2, model="lora-gpt2"),
    "lora on bert's tied head": replace(BERT, model="lora-head-bert"),
    "lora on gpt2, its head trained": replace(GPT2, model="lora-saved-gpt2"),
}
EVERY_PROMPT = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


# --- prompt mode ------------------------------------------------------------------------------------------------------------------


@EVERY_PROMPT
def test_the_kernel_of_a_prompt_is_that_of_plain_autograd(folder: Path, tmp_path: Path, lmntk: Command, case: Case) -> None:
    lmntk.works(*kernel_flags(folder, case.model, case.templates, case.words, tmp_path / "k", *case.flags))
    network, tokenizer = network_of(folder, case.model), hf.AutoTokenizer.from_pretrained(folder / base_of(case.model))
    logits = {
        side: [case.logits(network, tokenizer, row["text_a"]) for row in read(folder / f"{name}.jsonl")]
        for side, name in (("train", "few"), ("eval", "other"))
    }
    kept, _ = load_tensors(tmp_path / "k" / "logits.safetensors")
    for side, expected in logits.items():
        assert_close(kept[side], torch.stack(expected).detach().numpy(), case.tolerance)
    found = Kernel.load(tmp_path / "k" / "sgd.safetensors").values
    assert_close(found, kernel_of(autograd(network, logits["train"]), autograd(network, logits["eval"])), case.tolerance)


RUNS = {
    "gpt2": GPT2,
    "llama": LLAMA,
    "t5": T5,
    "bart": CASES["bart mask"],
    "lora on bert": CASES["lora on bert"],
    "several templates and words": replace(
        CASES["bert several templates"], words="terrible|bad,great", classes=({"terrible": 0.5, "bad": 0.5}, {"great": 1.0})
    ),
}


@pytest.mark.parametrize("case", RUNS.values(), ids=RUNS)
def test_a_run_of_a_prompt_starts_at_zero_shot_and_is_found_again(folder: Path, tmp_path: Path, lmntk: Command, case: Case) -> None:
    prompts = [part for template in case.templates for part in ("--template", template)]
    flags = run_flags(folder, case.model, tmp_path, *prompts, "--label-words", case.words, *case.flags)
    rows = json.loads(lmntk.works(*flags))
    assert [row["method"] for row in rows] == ["zero-shot", "sgd ridge"]
    network, tokenizer = network_of(folder, case.model), hf.AutoTokenizer.from_pretrained(folder / base_of(case.model))
    texts = read(folder / "test.jsonl")
    with torch.no_grad():
        expected = torch.stack([case.logits(network, tokenizer, row["text_a"]) for row in texts]).numpy()
    logits, _ = load_tensors(tmp_path / "kernels" / "own-k2-seed13-prompt" / "logits.safetensors")
    assert_close(logits["test"], expected, case.tolerance)
    assert rows[0]["test"] == pytest.approx(np.mean((expected[:, 0] > 0) == [row["label"] for row in texts]))
    streams = lmntk.streams
    assert json.loads(lmntk.works(*flags)) == rows
    assert lmntk.streams == streams == 1


def test_a_causal_prompt_with_a_mask_at_its_end_is_the_one_without(folder: Path, tmp_path: Path, lmntk: Command) -> None:
    outcomes = []
    for name, template in (("plain", "{a} it was"), ("mask", "{a} it was {mask}")):
        lmntk.works(*kernel_flags(folder, "gpt2", [template], "terrible,great", tmp_path / name))
        flags = run_flags(folder, "gpt2", tmp_path / "run", "--template", template, "--label-words", "terrible,great")
        outcomes.append((Kernel.load(tmp_path / name / "sgd.safetensors"), json.loads(lmntk.works(*flags))))
    (first, rows), (second, again) = outcomes
    np.testing.assert_array_equal(first.values, second.values)
    assert rows == again and lmntk.streams == 3  # the run knows that the two prompts are one
    assert first.provenance["prompt"] == second.provenance["prompt"]


def test_an_adapter_alone_counts(folder: Path, tmp_path: Path, lmntk: Command) -> None:
    """Also where the head is untied, which makes a parameter of it that nobody trains."""
    words = ["{a} it was {mask}."], "terrible,great"
    for name, flags in (("plain", []), ("untied", ["--untie-head"])):
        lmntk.works(*kernel_flags(folder, "lora-bert", *words, tmp_path / name, *flags))
    plain, untied = (Kernel.load(tmp_path / name / "sgd.safetensors").values for name in ("plain", "untied"))
    np.testing.assert_allclose(untied, plain, rtol=1e-12)
    lmntk.works(*kernel_flags(folder, "bert", *words, tmp_path / "base"))
    assert not np.allclose(Kernel.load(tmp_path / "base" / "sgd.safetensors").values, plain, rtol=0.5)


# --- head mode --------------------------------------------------------------------------------------------------------------------


def features(network: Any, tokenizer: Any, text: str, kind: str, model: str) -> Tensor:
    encoded = tokenizer(text, return_tensors="pt")
    if model in ("t5", "bart"):
        start = torch.tensor([[network.config.decoder_start_token_id]])
        return network(**encoded, decoder_input_ids=start, output_hidden_states=True).decoder_hidden_states[-1][0, 0]
    hidden = network.base_model(**encoded).last_hidden_state[0] if "lora" not in model else network.base_model.model.bert(**encoded)[0][0]
    if kind == "mean":
        return hidden.mean(0)
    return hidden[-1 if model in ("gpt2", "llama") else 0]


HEADS = [("bert", "read"), ("bert", "mean"), ("gpt2", "read"), ("gpt2", "mean"), ("llama", "read"), ("t5", "read"), ("bart", "read")]
HEADS += [("lora-bert", "read")]


@pytest.mark.parametrize(("model", "kind"), HEADS, ids=["-".join(head) for head in HEADS])
def test_head_mode_starts_at_the_probe_of_plain_features(folder: Path, tmp_path: Path, lmntk: Command, model: str, kind: str) -> None:
    flags = run_flags(folder, model, tmp_path, "--modes", "head", *([] if kind == "read" else ["--features", kind]))
    rows = json.loads(lmntk.works(*flags))
    assert [row["method"] for row in rows] == ["linear probe", "sgd ridge"]
    network, tokenizer = network_of(folder, model), hf.AutoTokenizer.from_pretrained(folder / base_of(model))
    split = json.loads((tmp_path / "cells" / "own-k2-seed13-head.json").read_text())["split"]
    texts = {"train": [read(folder / "train.jsonl")[row] for row in split["train"]], "test": read(folder / "test.jsonl")}
    read_ = {side: [features(network, tokenizer, row["text_a"], kind, model) for row in part] for side, part in texts.items()}
    x = torch.stack(read_["train"]).detach().numpy()
    probe = LogisticRegression(max_iter=10_000, tol=1e-4).fit(x, [row["label"] for row in texts["train"]])
    weight = torch.tensor(np.concatenate([-probe.coef_, probe.coef_]) / 2, requires_grad=True)
    bias = torch.tensor(np.concatenate([-probe.intercept_, probe.intercept_]) / 2, requires_grad=True)
    logits = {side: [(weight @ h + bias)[1:] - (weight @ h + bias)[:1] for h in part] for side, part in read_.items()}
    kept, _ = load_tensors(tmp_path / "kernels" / "own-k2-seed13-head" / "logits.safetensors")
    assert_close(kept["test"], torch.stack(logits["test"]).detach().numpy(), LOOSE)
    found = Kernel.load(tmp_path / "kernels" / "own-k2-seed13-head" / "test-sgd.safetensors").values
    jacobians = {side: autograd(network, part, (weight, bias)) for side, part in logits.items()}
    assert_close(found, kernel_of(jacobians["train"], jacobians["test"]), LOOSE)
    streams = lmntk.streams
    assert json.loads(lmntk.works(*flags)) == rows and lmntk.streams == streams


def test_features_that_a_model_has_not_are_refused_before_any_work(folder: Path, tmp_path: Path, lmntk: Command) -> None:
    prompt = ["--template", "{a} it was", "--label-words", "terrible,great"]
    for model in ("t5", "bart"):
        flags = run_flags(folder, model, tmp_path / "out", "--modes", "prompt,head", "--features", "mean", *prompt)
        lmntk.refuses("use read, not mean", *flags)
    for features in ("pooled", "max"):
        lmntk.refuses("'read' or 'mean'", *run_flags(folder, "bert", tmp_path / "out", "--modes", "head", "--features", features))
    lmntk.refuses("leave 'mean' out", *run_flags(folder, "classifier", tmp_path / "out", "--modes", "head", "--features", "mean"))
    assert not (tmp_path / "out").exists()


# --- classifiers with a head of their own -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["classifier", "gpt2-classifier", "lora-classifier"])
def test_a_classifier_starts_at_its_own_head(folder: Path, tmp_path: Path, lmntk: Command, model: str) -> None:
    flags = run_flags(folder, model, tmp_path, "--modes", "head", "--seeds", "13,21")
    rows = json.loads(lmntk.works(*flags))
    assert [row["method"] for row in rows] == ["own head", "sgd ridge"] * 2
    network, tokenizer = network_of(folder, model), hf.AutoTokenizer.from_pretrained(folder / base_of(model))
    texts = {"train": read(folder / "train.jsonl"), "test": read(folder / "test.jsonl")}
    raw = {side: [network(**tokenizer(row["text_a"], return_tensors="pt")).logits[0] for row in part] for side, part in texts.items()}
    logits = {side: [one[1:] - one[:1] for one in part] for side, part in raw.items()}
    jacobians = {side: autograd(network, part) for side, part in logits.items()}
    for seed, row in ((13, rows[0]), (21, rows[2])):
        name = f"own-k2-seed{seed}-head"
        split = json.loads((tmp_path / "cells" / f"{name}.json").read_text())["split"]
        kept, _ = load_tensors(tmp_path / "kernels" / name / "logits.safetensors")
        expected = torch.stack(logits["test"]).detach().numpy()
        assert_close(kept["test"], expected, EXACT)
        assert row["test"] == pytest.approx(np.mean((expected[:, 0] > 0) == [text["label"] for text in texts["test"]]))
        found = Kernel.load(tmp_path / "kernels" / name / "test-sgd.safetensors").values
        assert_close(found, kernel_of(jacobians["train"][split["train"]], jacobians["test"]), EXACT)
    assert lmntk.streams == 1  # the head is the same for every split, so the test texts are pushed through once
    assert json.loads(lmntk.works(*flags)) == rows and lmntk.streams == 1


def test_a_head_of_other_classes_is_refused_even_where_a_result_is_there(folder: Path, tmp_path: Path, lmntk: Command) -> None:
    model = tmp_path / "model"
    shutil.copytree(folder / "classifier", model)
    flags = run_flags(folder, str(model), tmp_path / "out", "--modes", "head")
    rows = json.loads(lmntk.works(*flags))
    rename(model, "1", "0")
    lmntk.refuses("has the classes in the order 1, 0", *flags)
    rename(model, "NEGATIVE", "POSITIVE")  # names that the texts' labels are not: their numbers say which is which
    assert json.loads(lmntk.works(*flags)) == rows and lmntk.streams == 1
    write_classifier(tmp_path / "three", ("bad", "so-so", "good"))
    three = run_flags(folder, str(tmp_path / "three"), tmp_path / "out", "--modes", "head")
    lmntk.refuses("has a head of 3 classes (bad, so-so, good), and the task has 2", *three)


def test_classes_are_compared_as_labels_are(folder: Path, tmp_path: Path, lmntk: Command) -> None:
    write_classifier(tmp_path / "model", ("Not_Good", "Very-Good"))
    for name in ("train", "test"):
        texts = [row | {"label": ("not good", "very good")[row["label"]]} for row in read(folder / f"{name}.jsonl")]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    flags = run_flags(tmp_path, "model", tmp_path / "out", "--modes", "head")
    lmntk.works(*flags, "--labels", "not good,very good")
    lmntk.refuses("in the order Not_Good, Very-Good", *flags, "--labels", "very good,not good")
    lmntk.works(*flags, "--labels", "Not_Good,Very-Good")


def rename(model: Path, *names: str) -> None:
    config = json.loads((model / "config.json").read_text())
    config |= {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    (model / "config.json").write_text(json.dumps(config))


# --- mistakes ---------------------------------------------------------------------------------------------------------------------

WRONG_KERNELS = {
    "an unknown kind": ("gpt2", {"--kind": "causl"}, "kind: 'causl' is not one of auto, masked, causal, seq2seq, classifier"),
    "another kind": ("gpt2", {"--kind": "masked"}, "which has no masked-language-model head; it can be loaded as causal"),
    "an encoder as causal": ("bert", {"--kind": "causal"}, "which has no causal-language-model head"),
    "a kind without its head": ("bert", {"--kind": "classifier"}, "no classification head"),
    "a classifier": ("classifier", {}, "prompt mode: a classifier has no vocabulary"),
    "a classifier, untied": ("classifier", {"--untie-head": None}, "prompt mode: a classifier has no vocabulary"),
    "a classifier's adapter": ("lora-classifier", {}, "prompt mode: a classifier has no vocabulary"),
    "an adapter on the head, untied": ("lora-head-bert", {"--untie-head": None}, "is on the tied head itself"),
    "a folder's revision": ("bert", {"--revision": "main"}, "is a folder, which has no revision 'main'"),
    "an adapter's folder's revision": ("lora-bert", {"--revision": "main"}, "is a folder, which has no revision 'main'"),
    "a base of a whole model": ("bert", {"--base": "gpt2"}, "is a whole model, not an adapter"),
    "a word of several tokens": ("bert", {"--label-words": "terrible,superb"}, "or pass --label-words-reduce mean or first"),
    "an unknown reduction": ("bert", {"--label-words-reduce": "last"}, "'last' is neither first nor mean"),
    "no label words": ("gpt2", {"--label-words": ""}, "give one word for each class, at least two"),
    "an empty label word": ("gpt2", {"--label-words": "terrible,"}, "label word '' is empty"),
    "an empty one of several": ("gpt2", {"--label-words": "terrible,great|"}, "have an empty one beside '|'"),
    "the same classes": ("gpt2", {"--label-words": "bad|terrible,terrible|bad"}, "is the same tokens as"),
    "a text after the mask": ("gpt2", {"--template": "{mask}? it was {a}"}, "begins with the mask"),
    "another text after the mask": ("gpt2", {"--template": "{a} it was {mask}, {a}"}, "puts a text after the mask"),
    "no template": ("gpt2", {"--template": ""}, "has no text"),
    "no mask": ("bert", {"--template": "{a} it was"}, "has no mask"),
}


@pytest.mark.parametrize(("model", "changes", "words"), WRONG_KERNELS.values(), ids=WRONG_KERNELS)
def test_mistakes_of_a_kernel_are_one_line(
    folder: Path, tmp_path: Path, lmntk: Command, model: str, changes: dict[str, str | None], words: str
) -> None:
    flags: dict[str, object] = {"--model": folder / model, "--train": folder / "few.jsonl", "--eval": folder / "other.jsonl"}
    flags |= {"--template": "{a} it was {mask}", "--label-words": "terrible,great", "--out": tmp_path / "k"}
    lmntk.refuses(words, "kernel", *(part for pair in (flags | changes).items() for part in pair if part is not None))
    assert not (tmp_path / "k").exists()


PROMPT = ("--template", "{a} it was {mask}", "--label-words", "terrible,great")
WRONG_RUNS = {
    "an unknown kind": (
        "gpt2",
        [*PROMPT, "--kind", "causl"],
        "kind: Input should be 'auto', 'masked', 'causal', 'seq2seq' or 'classifier'",
    ),
    "another kind": ("t5", [*PROMPT, "--kind", "causal"], "which has no causal-language-model head; it can be loaded as seq2seq"),
    "a head that was never trained": ("bert", ["--modes", "head", "--kind", "classifier"], "no classification head"),
    "a classifier's prompt": ("classifier", PROMPT, "prompt mode: a classifier has no vocabulary"),
    "a classifier's prompt and head": ("classifier", [*PROMPT, "--modes", "prompt,head"], "prompt mode: a classifier has no vocabulary"),
    "a classifier's vocabulary": ("classifier", ["--modes", "head", "--untie-head"], "has no head over a vocabulary"),
    "a folder's revision": ("gpt2", [*PROMPT, "--revision", "main"], "is a folder, which has no revision 'main'"),
    "a word of several tokens": ("gpt2", [*PROMPT[:3], "terrible,superb"], "or pass --label-words-reduce mean or first"),
    "an unknown reduction": ("gpt2", [*PROMPT, "--label-words-reduce", "last"], "'first' or 'mean' (given: 'last')"),
    "no label words": ("gpt2", [*PROMPT[:3], ""], "needs a template and label words"),
    "an empty label word": ("gpt2", [*PROMPT[:3], "terrible,"], "1 label words for 2 classes"),
    "a template twice": ("gpt2", [*PROMPT, "--template", "{a} it was"], "is given twice"),
    "an empty template": ("gpt2", ["--template", "", *PROMPT[2:]], "has no text"),
    "a text after the mask": ("gpt2", ["--template", "it was {mask}, {a}", *PROMPT[2:]], "puts a text after the mask"),
}


@pytest.mark.parametrize(("model", "flags", "words"), WRONG_RUNS.values(), ids=WRONG_RUNS)
def test_mistakes_of_a_run_are_one_line(folder: Path, tmp_path: Path, lmntk: Command, model: str, flags: Sequence[str], words: str) -> None:
    lmntk.refuses(words, *run_flags(folder, model, tmp_path / "out", *flags))
    assert not (tmp_path / "out").exists()


# --- what is found again ----------------------------------------------------------------------------------------------------------

CHANGES: dict[str, tuple[list[str], list[str]]] = {
    "a further template": (["--template", "{a} it was {mask}"], ["--template", "{a} it was {mask}", "--template", "{a} is {mask}"]),
    "another order of templates": (
        ["--template", "{a} it was {mask}", "--template", "{a} is {mask}"],
        ["--template", "{a} is {mask}", "--template", "{a} it was {mask}"],
    ),
    "another of several templates": (
        ["--template", "{a} it was {mask}", "--template", "{a} is {mask}"],
        ["--template", "{a} it was {mask}", "--template", "{a} was {mask}"],
    ),
    "another reduction": (
        ["--template", "{a} it was {mask}", "--label-words", "terrible,superb", "--label-words-reduce", "first"],
        ["--template", "{a} it was {mask}", "--label-words", "terrible,superb", "--label-words-reduce", "mean"],
    ),
    "a further word of a class": (
        ["--template", "{a} it was {mask}", "--label-words", "terrible,great"],
        ["--template", "{a} it was {mask}", "--label-words", "terrible,great|good"],
    ),
}


@pytest.mark.parametrize(("before", "after"), CHANGES.values(), ids=CHANGES)
def test_another_prompt_is_never_an_old_result(folder: Path, tmp_path: Path, lmntk: Command, before: list[str], after: list[str]) -> None:
    words = [] if "--label-words" in before else ["--label-words", "terrible,great"]
    for count, flags in ((1, before), (1, before), (2, after), (2, after), (3, before)):
        lmntk.works(*run_flags(folder, "bert", tmp_path / "out", *words, *flags))
        assert lmntk.streams == count
    texts = ["--train", folder / "few.jsonl", "--eval", folder / "other.jsonl", "--formulas", "sgd", "--out", tmp_path / "k"]
    lmntk.works("kernel", "--model", folder / "bert", *texts, *words, *before)
    lmntk.refuses("is of another", "kernel", "--model", folder / "bert", *texts, *words, *after)
    assert "earlier run" in lmntk.works("kernel", "--model", folder / "bert", *texts, *words, *before)
    assert lmntk.streams == 4


def test_a_file_says_the_same_as_flags(folder: Path, tmp_path: Path, lmntk: Command) -> None:
    prompts, words = ["{a} it was {mask}.", "a {mask} film, {a}"], "terrible|bad,superb"
    flags = [part for prompt in prompts for part in ("--template", prompt)] + ["--label-words", words, "--label-words-reduce", "mean"]
    rows = json.loads(lmntk.works(*run_flags(folder, "bert", tmp_path / "out", *flags, "--kind", "masked")))
    fields = {"model": str(folder / "bert"), "k": [2], "seeds": [13], "formulas": ["sgd"], "dtype": "float64", "out": str(tmp_path / "out")}
    fields |= {"kind": "auto", "label_words_reduce": "mean"}
    own = {"name": "own", "train": str(folder / "train.jsonl"), "test": str(folder / "test.jsonl"), "text_column": "text_a"}
    for written in (words, words.split(",")):
        task = own | {"template": prompts, "label_words": written}
        lines = [f"{name} = {json.dumps(value)}" for name, value in fields.items()]
        lines += ["[[own_tasks]]", *(f"{name} = {json.dumps(value)}" for name, value in task.items())]
        (tmp_path / "experiment.toml").write_text("\n".join(lines))
        assert json.loads(lmntk.works("run", tmp_path / "experiment.toml", "--json")) == rows
    assert lmntk.streams == 1


def test_other_features_are_never_an_old_result(folder: Path, tmp_path: Path, lmntk: Command) -> None:
    found = []
    for count, kind in ((1, "read"), (2, "mean"), (2, "mean"), (3, "read")):
        found.append(json.loads(lmntk.works(*run_flags(folder, "gpt2", tmp_path, "--modes", "head", "--features", kind))))
        assert lmntk.streams == count
    assert found[0] == found[3] and found[1] == found[2]


def test_another_kind_is_never_an_old_result(folder: Path, tmp_path: Path, lmntk: Command) -> None:
    """One folder's weights as two kinds: the classifier's head is left out of the masked model, whose own is missing."""
    flags = run_flags(folder, "classifier", tmp_path, "--modes", "head")
    own = json.loads(lmntk.works(*flags))
    probe = json.loads(lmntk.works(*flags, "--kind", "masked"))
    assert lmntk.streams == 2 and own[0]["method"] == "own head" and probe[0]["method"] == "linear probe"
    assert json.loads(lmntk.works(*flags, "--kind", "classifier")) == own  # its files were the masked model's by now
    assert lmntk.streams == 3


def test_an_adapter_is_never_taken_for_its_base(folder: Path, tmp_path: Path, lmntk: Command) -> None:
    prompt = ["--template", "{a} it was {mask}.", "--label-words", "terrible,great"]
    for count, model in ((1, "bert"), (2, "lora-bert"), (2, "lora-bert"), (3, "bert")):
        lmntk.works(*run_flags(folder, model, tmp_path / "out", *prompt))
        assert lmntk.streams == count
    lmntk.works(*kernel_flags(folder, "bert", prompt[1:2], prompt[3], tmp_path / "k"))
    lmntk.refuses("is of another model", *kernel_flags(folder, "lora-bert", prompt[1:2], prompt[3], tmp_path / "k"))
