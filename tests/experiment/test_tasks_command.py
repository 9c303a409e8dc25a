"""``lmntk tasks``: what the catalogue has, as lines and as JSON, and at once."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from tiny import write_rows

from lmntk.models.kinds import PROMPT_READING
from lmntk.tasks import TASKS

HEAVY = "{'torch', 'transformers', 'scipy', 'sklearn', 'pandas'}"


def test_tasks_are_listed_with_a_prompt_for_each_kind_of_model(lmntk):
    lines = lmntk.works("tasks").splitlines()
    assert [line.split(":")[0] for line in lines if not line.startswith(" ")] == list(TASKS)
    first = lmntk.works("tasks", "SST-2").splitlines()
    assert first == [
        "sst-2: SST-2, one text, 2 classes (negative, positive), accuracy, at most 128 tokens",
        '  masked, seq2seq  "{a} It was {mask}."  terrible, great',
        '  causal           "Review: {a}\\nSentiment:"  negative, positive',
    ]
    (limited, *_) = lmntk.works("tasks", "mnli").splitlines()
    assert "two texts, 3 classes" in limited and limited.endswith("256 tokens, the first text at most 240")
    lmntk.refuses("there is no task 'sst'", "tasks", "sst")


def test_json_has_the_same(lmntk):
    listed = json.loads(lmntk.works("tasks", "--json"))
    assert [task["name"] for task in listed] == list(TASKS)
    for task in listed:
        known = TASKS[task["name"]]
        assert (task["metric"], task["max_length"], task["classes"]) == (
            known.metric,
            known.max_length,
            len(known.labels),
        )
        assert set(task["prompts"]) == set(PROMPT_READING)
        for kind, reading in PROMPT_READING.items():
            prompt = known.prompt(reading)
            assert task["prompts"][kind] == {
                "template": prompt.template,
                "label_words": list(prompt.label_words),
            }
    assert [task["name"] for task in json.loads(lmntk.works("tasks", "mr", "trec", "--json"))] == [
        "mr",
        "trec",
    ]


def test_sizes_of_the_data(lmntk, tmp_path):
    write_rows(tmp_path / "sst-2" / "train.jsonl", 12)
    write_rows(tmp_path / "sst-2" / "test.jsonl", 7)
    (train, test) = json.loads(lmntk.works("tasks", "--data", tmp_path, "--json", "sst-2"))[0][
        "texts"
    ].items()
    assert (train, test) == (("train", 12), ("test", 7))
    assert (
        lmntk.works("tasks", "sst-2", "--data", tmp_path).splitlines()[-1]
        == "  texts            12 train, 7 test"
    )
    lines = lmntk.works("tasks", "--data", tmp_path).splitlines()
    assert sum(line.startswith("  texts ") for line in lines) == len(TASKS)
    assert sum("12 train, 7 test" in line for line in lines) == 1  # the others' lines say what is missing
    lmntk.refuses("train.jsonl.gz does not exist", "tasks", "mr", "--data", tmp_path)  # which was asked for


def test_words_of_a_models_tokenizer(folder, lmntk, tmp_path):
    named = lmntk.works("tasks", "sst-5", "sst-2", "--model", folder / "chat").splitlines()
    words = [line for line in named if " words, " in line]
    assert words[0].startswith("  causal words, after a space: 'okay' is 'Ġ' + ")
    assert (
        words[1].startswith("  causal words, at an answer's beginning: 'okay' is 'o' + ") and len(words) == 4
    )
    assert "terrible" not in words[0] + words[1]
    plain = lmntk.works("tasks", "sst-2", "--model", folder / "gpt2").splitlines()  # which has no chats
    assert sum(" words, " in line for line in plain) == 1
    bert = lmntk.works("tasks", "sst-2", "--model", folder / "bert").splitlines()
    assert bert[-1] == "  masked words, after a space: each is a single token"
    (task,) = json.loads(lmntk.works("tasks", "sst-2", "--model", folder / "bert", "--json"))
    assert task["model"]["kind"] == "masked" and task["model"]["words"]["great"]["after a space"] == ["great"]
    (tmp_path / "weightless").mkdir()  # weights are not read
    for file in (folder / "bert").iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / "weightless" / file.name).write_bytes(file.read_bytes())
    assert lmntk.works("tasks", "sst-2", "--model", tmp_path / "weightless").splitlines() == bert


WRONG = {
    "no model": (("--model", "no/such/model"), "no/such/model"),
    "no tokenizer's folder": (("--model", "."), "has no config.json"),
    "a name without a model": (("--gguf", "a.gguf"), "gguf: it needs a model; give --model"),
    "no data": (("sst-2", "--data", "no/such/folder"), "no/such/folder"),
}


@pytest.mark.parametrize(("flags", "words"), WRONG.values(), ids=WRONG)
def test_mistakes_are_one_line(lmntk, flags, words):
    lmntk.refuses(words, "tasks", *flags)


def test_a_classifier_reads_no_words(lmntk, folder):
    lmntk.refuses("is a classifier, which reads no label words", "tasks", "--model", folder / "classifier")


def test_nothing_heavy_is_imported():
    script = (
        "import sys; sys.argv = ['lmntk', 'tasks']\n"
        "from lmntk.cli.app import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print(*set(sys.modules) & {HEAVY}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.split() == [] and "sst-2" in done.stdout
