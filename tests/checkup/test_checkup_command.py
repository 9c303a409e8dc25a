"""``lmntk check`` as a user meets it: what it prints, its JSON and its exit codes, on sound models and planted faults."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

import peft
import pytest
import torch
import transformers as hf
from tiny import write_model, write_rows
from torch import nn
from transformers import AutoTokenizer

import lmntk.checkup.examine as doctor
from lmntk import load_pretrained
from lmntk.cli import app as cli
from lmntk.tangents.factors import OuterFactors, sum_over_uses
from lmntk.tangents.rules import RULES, register_rule

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
T5 = {
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 2,
    "num_heads": 2,
    "pad_token_id": 0,
    "eos_token_id": 3,
    "decoder_start_token_id": 0,
}
BART = {"d_model": 16, "max_position_embeddings": 64, "decoder_start_token_id": 3, **SPECIAL}
BART |= {
    f"{side}_{name}": value
    for side in ("encoder", "decoder")
    for name, value in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 32))
}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, **SPECIAL}
WORDS = ["--label-words", "terrible,great"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("check")
    write_model(base / "bert")
    write_rows(base / "rows.jsonl", 24)
    tokenizer = AutoTokenizer.from_pretrained(base / "bert")

    def write(name, network):
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        network.save_pretrained(base / name)
        tokenizer.save_pretrained(base / name)

    size = {"vocab_size": len(tokenizer)}
    write("gpt2", hf.GPT2LMHeadModel(hf.GPT2Config(**size, **GPT2)))
    write("llama", hf.LlamaForCausalLM(hf.LlamaConfig(**size, **SMALL, **SPECIAL)))
    write("t5", hf.T5ForConditionalGeneration(hf.T5Config(**size, **T5)))
    write("bart", hf.BartForConditionalGeneration(hf.BartConfig(**size, **BART)))
    write("classifier", hf.BertForSequenceClassification(hf.BertConfig(**size, **SMALL)))
    write("three-classes", hf.BertForSequenceClassification(hf.BertConfig(**size, **SMALL, num_labels=3)))
    deberta = hf.DebertaV2Config(**size, **SMALL, relative_attention=True, pos_att_type=["p2c", "c2p"])
    write("deberta", hf.DebertaV2ForMaskedLM(deberta))
    network = hf.BertForMaskedLM.from_pretrained(base / "bert")
    peft.get_peft_model(network, peft.LoraConfig(r=2, target_modules=["query", "value"])).save_pretrained(
        base / "lora"
    )
    return base


@pytest.fixture
def check(folder, capsys, monkeypatch):
    """Runs ``lmntk check`` on a model of the folder; returns its exit code and what it printed, as JSON wherever there is some."""

    def run(model, *options, as_json=True):
        monkeypatch.setattr(
            sys,
            "argv",
            ["lmntk", "check", str(folder / model), *map(str, options), *(["--json"] if as_json else [])],
        )
        with pytest.raises(SystemExit) as left:
            cli.main()
        printed = capsys.readouterr()
        if left.value.code == 2:
            assert printed.out == "" and len(printed.err.splitlines()) == 1
            return 2, printed.err
        return left.value.code, json.loads(printed.out) if as_json else printed.out

    return run


@pytest.fixture
def plant(monkeypatch):
    """Changes every network that is loaded."""

    def planted(change):
        def load(*arguments, **keywords):
            pretrained = load_pretrained(*arguments, **keywords)
            change(pretrained.network)
            return pretrained

        monkeypatch.setattr(doctor, "load_pretrained", load)

    return planted


@pytest.fixture
def rules():
    before = dict(RULES)
    yield RULES
    RULES.clear()
    RULES.update(before)


def faults(report):
    return {finding["check"]: finding for finding in report["findings"] if finding["level"] == "fault"}


def finding_of(report, name):
    [found] = [finding for finding in report["findings"] if finding["check"] == name]
    return found


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
    assert finding_of(report, "noise")["by_parameter"] == {
        f"network.bert.encoder.layer.{layer}.attention.self.key.bias": SMALL["hidden_size"]
        for layer in range(2)
    }
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


def test_a_rule_removed(check, rules):
    del rules[nn.Linear]
    code, report = check("bert")
    fault = faults(report)["rules"]
    assert code == 1 and fault["modules"] == ["Linear"] and not report["all_is_well"]
    assert "network.bert.encoder.layer.*.attention.self.query.weight (Linear) x 2" in fault["line"]
    assert "network.bert.encoder.layer.1.output.dense.bias" in fault["names"]
    code, printed = check("bert", as_json=False)
    assert (
        code == 1
        and "FAULT  rules: no rule covers" in printed
        and printed.splitlines()[-1] == "not all is well: 1 fault"
    )


def test_a_wrong_rule(check, rules):
    @register_rule(nn.Linear)
    def linear(use):
        gradients = use.output_gradients
        yield use.module.weight, OuterFactors(1.001 * use.inputs, gradients, False)
        yield use.module.bias, sum_over_uses(gradients)

    code, report = check("classifier", "--dtype", "float64")
    fault = faults(report)["rules"]
    assert (
        code == 1
        and "the rule is wrong for" in fault["line"]
        and "network.classifier.weight" in fault["names"]
    )
    assert all(name.endswith("weight") for name in fault["names"])


def test_a_tied_weight_doubled_with_equal_values(folder, check):
    network = hf.BertForMaskedLM.from_pretrained(folder / "bert")
    network.config.tie_word_embeddings = False
    network.cls.predictions.decoder.weight = nn.Parameter(
        network.bert.embeddings.word_embeddings.weight.detach().clone()
    )
    network.cls.predictions.decoder.bias = nn.Parameter(network.cls.predictions.bias.detach().clone())
    network.save_pretrained(folder / "doubled")
    AutoTokenizer.from_pretrained(folder / "bert").save_pretrained(folder / "doubled")
    code, report = check("doubled")
    assert code == 1 and set(faults(report)) == {"ties"}
    names = ["network.bert.embeddings.word_embeddings.weight", "network.cls.predictions.decoder.weight"]
    assert faults(report)["ties"]["doubled"] == [names]


@pytest.mark.parametrize("planted", ["in the checkpoint", "after loading"])
def test_a_configuration_that_ties_weights_that_are_apart(folder, check, plant, planted):
    def untie(network):
        weight = network.cls.predictions.decoder.weight
        network.cls.predictions.decoder.weight = nn.Parameter(2 * weight.detach())

    if planted == "after loading":
        plant(untie)
        code, report = check("bert")
    else:
        network = hf.BertForMaskedLM.from_pretrained(folder / "bert")
        untie(network)
        network.save_pretrained(folder / "apart")
        AutoTokenizer.from_pretrained(folder / "bert").save_pretrained(folder / "apart")
        code, report = check("apart")
    assert code == 1 and set(faults(report)) == {"ties"}
    assert "the configuration ties network.cls.predictions.decoder.weight" in faults(report)["ties"]["line"]


class WithNorm(nn.Module):
    def __init__(self, inner, **settings):
        super().__init__()
        self.inner = inner
        self.norm = nn.BatchNorm1d(16, **settings)

    def forward(self, x):
        return self.norm(self.inner(x).transpose(1, 2)).transpose(1, 2)


class Centred(nn.Linear):
    def forward(self, x):
        x = super().forward(x)
        return x - x.mean(0, keepdim=True) / 4


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            lambda dense: WithNorm(dense, track_running_stats=False),
            "network.bert.encoder.layer.1.output.dense.norm (BatchNorm1d)",
        ),
        (lambda dense: WithNorm(dense), "network.bert.encoder.layer.1.output.dense.norm (BatchNorm1d)"),
        (lambda dense: Centred(32, 16), "network.bert.encoder.layer.1.output.dense (Centred)"),
    ],
    ids=["batch statistics", "running statistics", "batch mean"],
)
def test_a_layer_that_couples_the_batch(check, plant, change, named):
    def couple(network):
        output = network.bert.encoder.layer[1].output
        torch.manual_seed(0)
        output.dense = change(output.dense)

    plant(couple)
    code, report = check("bert")
    assert (
        code == 1 and faults(report)["batch"]["module"] == named and named in faults(report)["batch"]["line"]
    )


def test_padding_that_is_not_masked(check, plant):
    def unmask(network):
        attention = network.bert.encoder.layer[0].attention.self
        forward = attention.forward
        attention.forward = lambda hidden, **keywords: forward(
            hidden, **(keywords | {"attention_mask": None})
        )

    plant(unmask)
    code, report = check("bert")
    assert code == 1 and faults(report)["batch"]["module"].startswith(
        "network.bert.encoder.layer.0.attention.self "
    )


def test_parameters_that_are_not_numbers(check, plant):
    plant(lambda network: network.bert.encoder.layer[0].output.dense.bias.data.fill_(float("nan")))
    code, report = check("bert")
    assert code == 1 and "network.bert.encoder.layer.0.output.dense.bias" in faults(report)["logits"]["line"]
    assert not {"coverage", "label words"} & {finding["check"] for finding in report["findings"]}


@pytest.mark.parametrize("mode", ["prompt", "head"])
def test_a_frozen_adapter(check, plant, mode):
    plant(lambda network: network.requires_grad_(False))
    code, report = check("lora", "--mode", mode)
    assert code == 1 and "the adapter is frozen" in faults(report)["parameters"]["line"]


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
