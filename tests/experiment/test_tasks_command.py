"""``lmntk tasks``: what the catalogue has, as lines and as JSON, and at once."""

from __future__ import annotations

import json
import subprocess
import sys

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
