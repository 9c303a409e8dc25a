"""``lmntk check`` as a user meets it: what it prints, its JSON and its exit codes, on sound models and planted faults."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

import pytest
import torch
import transformers as hf
from findings import faults, finding_of
from tiny import write_rows
from transformers import AutoTokenizer

import lmntk.checkup.examine as doctor

WORDS = ["--label-words", "terrible,great"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "model", ["bert", "gpt2", "llama", "t5", "bart", "classifier", "three-classes", "deberta", "lora"]
)
def test_a_sound_model_exits_with_zero(folder, check, model, dtype):
    code, report = check(model, "--dtype", dtype, "--texts", folder / "rows.jsonl")
    assert (code, report["all_is_well"], faults(report)) == (0, True, {})
    names = [finding["check"] for finding in report["findings"]]
    assert names[:2] == ["model", "input"] and {
        "batch",
        "coverage",
        "error",
        "gradients",
        "noise",
        "accuracy",
    } <= set(names)
    assert ("label words" in names) == ("class" not in model)


@pytest.mark.parametrize("model", ["bert", "llama", "t5", "lora"])
def test_head_mode(check, model):
    code, report = check(model, "--mode", "head")
    assert (code, faults(report)) == (0, {})
    assert finding_of(report, "input")["mode"] == "head"
    assert not {"label words", "accuracy"} & {finding["check"] for finding in report["findings"]}


def test_text_is_a_line_a_finding(check):
    code, printed = check("bert", as_json=False)
    lines = printed.splitlines()
    assert code == 0 and lines[-1] == "all is well"
    assert all(line[:7] in ("ok     ", "note   ") for line in lines[:-1])
    assert lines[1] == "ok     input: 120 bundled reviews, '{a} It was {mask}.' with terrible, great"
    keys = "network.bert.encoder.layer.*.attention.self.key.bias x 2"
    assert (
        f"noise: 32 coordinates with a gradient that is rounding noise, left out of the sign kernels: {keys}"
        in printed
    )


def test_ties_and_noise_of_bert(check):
    _, report = check("bert")
    table, decoder = (
        "network.bert.embeddings.word_embeddings.weight",
        "network.cls.predictions.decoder.weight",
    )
    assert [table, decoder] in finding_of(report, "ties")["tied"]
    assert (
        finding_of(report, "noise")["by_parameter"]
        == {
            f"network.bert.encoder.layer.{layer}.attention.self.key.bias": 16  # the width: keys' biases have no gradient
            for layer in range(2)
        }
    )
    network = hf.BertForMaskedLM.from_pretrained(report["model"])
    assert finding_of(report, "coverage")["entries"] == sum(
        parameter.numel() for parameter in network.parameters()
    )


def plain_logits(folder, words=("terrible", "great")):
    """Returns the vocabulary's logits at the mask, text by text, from the network as Hugging Face made it; and the labels."""
    network = hf.BertForMaskedLM.from_pretrained(folder / "bert").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "bert")
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    found = []
    for row in rows:
        inputs = tokenizer(f"{row['text_a']} It was [MASK].", return_tensors="pt")
        position = inputs["input_ids"][0].tolist().index(tokenizer.mask_token_id)
        with torch.no_grad():
            found.append(network(**inputs).logits[0, position].tolist())
    return found, tokenizer.convert_tokens_to_ids(list(words)), [row["label"] for row in rows]


def test_ranks_are_those_of_a_plain_computation(folder, check):
    _, report = check("bert", "--texts", folder / "rows.jsonl")
    logits, ids, _ = plain_logits(folder)
    found = finding_of(report, "label words")
    assert [word["id"] for word in found["words"]] == ids and [
        word["classes"] for word in found["words"]
    ] == [[0], [1]]
    for word, token in zip(found["words"], ids, strict=True):
        ranks = [sorted(row, reverse=True).index(row[token]) + 1 for row in logits]
        assert word["median_rank"] == statistics.median_low(ranks)
        probability = statistics.mean(float(torch.tensor(row).double().softmax(0)[token]) for row in logits)
        assert word["mean_probability"] == pytest.approx(probability, rel=1e-4)
    assert found["vocabulary"] == len(logits[0])
    assert f"'terrible' {found['words'][0]['median_rank']}" in found["line"]


def test_accuracy_is_that_of_a_plain_computation(folder, check):
    _, report = check("bert", "--texts", folder / "rows.jsonl")
    logits, (bad, good), labels = plain_logits(folder)
    differences = [row[good] - row[bad] for row in logits]
    found = finding_of(report, "accuracy")
    right = [int(difference > 0) == label for difference, label in zip(differences, labels, strict=True)]
    assert found["accuracy"] == pytest.approx(sum(right) / 24) and 0 < sum(right) < 24
    middle = statistics.median(differences)
    centred = [
        int(difference > middle) == label for difference, label in zip(differences, labels, strict=True)
    ]
    biased = found["accuracy_with_the_median_over_the_scored_texts_as_threshold"]
    assert biased == pytest.approx(sum(centred) / 24)
    assert (found["commonest_class"], found["texts"]) == (0.5, 24)
    assert "; with the median over these same 24 texts as threshold, which is no result, " in found["line"]


def test_no_accuracy_without_labels(folder, check):
    (folder / "unlabelled.jsonl").write_text('{"text_a": "a film"}\n{"text_a": "a very dull book"}\n')
    code, report = check("bert", "--texts", folder / "unlabelled.jsonl")
    assert code == 0 and "accuracy" not in {finding["check"] for finding in report["findings"]}


def test_a_task(folder, check):
    for name in ("train", "test"):
        write_rows(folder / "data" / "mr" / f"{name}.jsonl", 30)
    code, report = check("bert", "--task", "mr", "--data", folder / "data")
    assert code == 0 and finding_of(report, "accuracy")["texts"] == 30
    assert finding_of(report, "input")["source"] == "mr"


def test_default_label_words_of_several_tokens_are_a_note(check, monkeypatch):
    monkeypatch.setitem(doctor.PROMPTS, "reviews", ("{a} It was {mask}.", ("terrible", "superb")))
    code, report = check("bert")
    found = finding_of(report, "label words")
    assert code == 0 and found["level"] == "note" and "'superb' is 2 tokens" in found["line"]
    assert (
        finding_of(report, "input")["mode"] == "head"
        and finding_of(report, "coverage")["covered_by_rules"] == 39
    )
    assert check("bert", *WORDS)[0] == 0


def test_a_tasks_label_words_that_do_not_suit_are_a_fault(folder, check):
    write_rows(folder / "data" / "subj" / "train.jsonl", 8)
    write_rows(folder / "data" / "subj" / "test.jsonl", 8)
    code, report = check("bert", "--task", "subj", "--data", folder / "data")
    assert (
        code == 1
        and "subj's subjective, objective do not suit this model" in faults(report)["label words"]["line"]
    )
    assert "gradients" in {finding["check"] for finding in report["findings"]}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--label-words", "terrible,superb"], "'superb' is 2 tokens"),
        (["--template", "{a} it was."], "has no mask"),
        (["--mode", "both"], "neither prompt nor head"),
        (["--mode", "head", *WORDS], "--label-words: head mode reads no prompt"),
        (["--data", "data"], "give --task too"),
        (["--task", "mr"], "give --data"),
        (["--task", "mr", "--data", "data", "--texts", "rows.jsonl"], "give --task or --texts"),
        (["--texts", "nowhere.jsonl"], "does not exist"),
        (["--dtype", "float16"], "'float16' is not one of"),
    ],
    ids=lambda value: value[0].lstrip("-") if isinstance(value, list) else "",
)
def test_mistakes(check, options, words):
    code, error = check("bert", *options)
    assert code == 2 and words in error


def test_mistakes_of_models_and_labels(folder, check):
    assert "config.json" in check("nothing")[1]
    assert "a classifier reads its own head" in check("classifier", *WORDS)[1]
    (folder / "third.jsonl").write_text('{"text_a": "a film", "label": 2}\n')
    assert (
        "there are 2 classes (0 to 1); give --label-words"
        in check("bert", "--texts", folder / "third.jsonl")[1]
    )
    assert "use a classifier of these classes" in check("classifier", "--texts", folder / "third.jsonl")[1]
    assert check("three-classes", "--texts", folder / "third.jsonl")[0] == 0


def test_help_has_an_example_and_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['lmntk', 'check', '--help']\n"
        "from lmntk.cli.app import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'sklearn', 'numpy'} & set(sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert "Example: lmntk check" in result.stdout
