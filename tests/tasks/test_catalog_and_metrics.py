import subprocess
import sys

import numpy as np
import pytest

from lmntk.errors import UserError
from lmntk.tasks import TASKS, get_task, score


def test_catalog_is_whole():
    assert list(TASKS) == [
        "sst-2",
        "sst-5",
        "mr",
        "cr",
        "mpqa",
        "subj",
        "trec",
        "ag_news",
        "mnli",
        "snli",
        "qnli",
        "rte",
        "mrpc",
        "qqp",
    ]
    for task in TASKS.values():
        assert len(task.labels) == len(task.label_words) == len(set(task.label_words))
        assert task.template.count("{mask}") == 1
        assert ("{b" in task.template) == task.pair
        assert task.metric == ("f1" if task.name in ("mrpc", "qqp") else "accuracy")


def test_label_words_go_by_meaning():
    for name in ("mnli", "snli", "qnli", "rte"):
        words = dict(zip(TASKS[name].labels, TASKS[name].label_words, strict=True))
        assert words["entailment"] == "Yes"
        assert words.get("not_entailment", words.get("contradiction")) == "No"
    assert TASKS["qqp"].label_words == TASKS["mrpc"].label_words == ("No", "Yes")


def test_causal_prompts_end_where_the_word_is_to_come():
    for task in TASKS.values():
        template, words = task.causal.template, task.causal.label_words
        assert "{mask}" not in template and template.endswith(":")
        assert ("{b" in template) == task.pair
        assert len(words) == len(set(words)) == len(task.labels)
        assert len(template.splitlines()) > 1  # a text ends where its line ends


PAPER, CAUSAL = (
    ("{a} It was {mask}.", ("terrible", "great")),
    (
        "Review: {a}\nSentiment:",
        ("negative", "positive"),
    ),
)
GIVEN = {
    "masked": ("sst-2", "mask", None, None, PAPER),
    "seq2seq": ("sst-2", "decoder", None, None, PAPER),
    "causal": ("sst-2", "last", None, None, CAUSAL),
    "causal, a template given": ("sst-2", "last", "{a} I feel", None, ("{a} I feel", PAPER[1])),
    "causal, words given": ("sst-2", "last", None, ("sad", "happy"), (PAPER[0], ("sad", "happy"))),
    "causal, words given where a text stands after the mask": (
        "trec",
        "last",
        None,
        tuple("abcdef"),
        ("Question: {a}\nAnswer type:", tuple("abcdef")),
    ),
    "causal, both given": ("mnli", "last", "{a} {b}", ("x", "y", "z"), ("{a} {b}", ("x", "y", "z"))),
    "masked, words given": ("sst-2", "mask", None, ("sad", "happy"), (PAPER[0], ("sad", "happy"))),
}


@pytest.mark.parametrize(("task", "reading", "template", "words", "expected"), GIVEN.values(), ids=GIVEN)
def test_a_prompt_is_what_is_given_and_the_kind_s_default(task, reading, template, words, expected):
    prompt = TASKS[task].prompt(reading, template, words)
    assert (prompt.template, prompt.label_words) == expected


@pytest.mark.parametrize(
    ("name", "limits"),
    {
        "sst-2": (128, None),
        "mr": (128, 110),
        "trec": (128, 110),
        "ag_news": (256, 240),
        "mnli": (256, 240),
        "snli": (256, None),
        "rte": (256, 240),
        "qnli": (128, None),
        "mrpc": (128, None),
    }.items(),
)
def test_length_limits(name, limits):
    assert (TASKS[name].max_length, TASKS[name].text_a_limit) == limits


def test_names_are_forgiving_and_errors_near():
    assert get_task("SST-2") is get_task("sst_2") is TASKS["sst-2"]
    assert get_task("AG News") is TASKS["ag_news"]
    with pytest.raises(UserError, match="'ssst-2': did you mean 'sst-2' or"):
        get_task("ssst-2")
    with pytest.raises(UserError, match="the tasks are sst-2, sst-5"):
        get_task("xxxxxxxx")


def test_scores():
    assert score("accuracy", [0, 1, 2, 1], [0, 1, 1, 1]) == 0.75
    assert score("f1", [1, 1, 0, 0], [1, 0, 1, 0]) == pytest.approx(0.5)
    assert score("f1", [0, 1, 1], np.array([0, 1, 0])) == pytest.approx(2 / 3)
    assert score("f1", [0, 0], [0, 0]) == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("auc", [0], [0]), "no metric 'auc': use one of accuracy, f1"),
        (("f1", [0], [0, 1]), "1 labels and 2"),
        (("f1", [], []), "no rows"),
    ],
)
def test_score_errors(arguments, message):
    with pytest.raises(UserError, match=message):
        score(*arguments)


def test_import_is_light():
    code = "import lmntk.tasks, sys; print([m for m in ('pandas', 'datasets', 'sklearn', 'torch', 'pyarrow') if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )
