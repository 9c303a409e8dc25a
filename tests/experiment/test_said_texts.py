"""Every command says how its texts were read: what was guessed, cut, empty or shared; and refuses what it cannot use."""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from tiny import BAD, GOOD, write_model

from lmntk.experiment.configuration import make_experiment
from lmntk.experiment.run import run
from lmntk.prompts.encoding import PromptEncoder
from lmntk.system import notices
from lmntk.system.notices import Notice

Lmntk = Callable[..., tuple[int, str, str]]
LONG = " and a happy story , a sad book"
PROMPT = ("--template", "{a} it was {mask}.", "--label-words", "terrible,great")
CUT = "cut to 12 tokens"


def write_table(path: Path, rows: Iterable[tuple[str, ...]], delimiter: str = ",") -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


def labelled(texts: Iterable[str]) -> list[tuple[str, ...]]:
    return [("text", "label"), *((text, "good" if text in GOOD else "bad") for text in texts)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("said")
    write_model(folder / "model")
    long = [text + LONG for text in BAD[:2]]
    write_table(folder / "train.csv", labelled([*GOOD[:4], *BAD[2:4], *long]), ";")
    write_table(folder / "test.csv", labelled([*GOOD[3:6], *BAD[4:], long[1], ""]))
    write_table(folder / "hidden.csv", [("text", "label"), *((text, "-1") for text in GOOD)])
    write_table(
        folder / "pairs.csv",
        [("text", "other", "label"), *((text, "a b", str(i % 2)) for i, text in enumerate(GOOD))],
    )
    pairs = ({"text_a": text, "text_b": "a book", "label": i % 2} for i, text in enumerate(GOOD))
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    texts = ({"text_a": text, "label": 0} for text in (GOOD[0], BAD[0] + LONG * 20, "", " "))
    (folder / "texts.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    return folder


@pytest.fixture
def lmntk(command_line):
    return command_line


def run_flags(folder: Path, out: Path, **changes: object) -> list[object]:
    flags = {
        "model": folder / "model",
        "train": folder / "train.csv",
        "test": folder / "test.csv",
        "k": 2,
        "seeds": 13,
    }
    flags |= {"max-length": 12, "formulas": "sgd", "out": out} | changes
    return [*PROMPT, *(part for name, value in flags.items() for part in (f"--{name}", value))]


def said_of(folder: Path) -> list[str]:
    return [
        f"{folder / 'train.csv'}: read as cells between semicolons, which its header line has",
        f"{folder / 'train.csv'}: 1 of 8 test texts is empty",
        f"{folder / 'train.csv'}: 2 of 8 test texts are among the train texts too",
        "own, prompt: 3 of 16 texts were cut to 12 tokens; --max-length sets another limit",
    ]


def test_a_run_says_it_on_screen_in_summary_and_page(folder, tmp_path, lmntk):
    code, out, errors = lmntk("plan", *run_flags(folder, tmp_path / "out"))
    assert code == 0, errors
    assert all(line in errors and line not in out for line in said_of(folder))
    code, _, errors = lmntk("run", *run_flags(folder, tmp_path / "out"), "--save-models")
    assert code == 0, errors
    summary, page = ((tmp_path / "out" / name).read_text() for name in ("summary.md", "report.html"))
    for line in said_of(folder):
        assert errors.splitlines().count(line) == 1 and line in summary and line in page

    rows = [("title", "other"), (GOOD[0], ""), (BAD[0] + LONG, ""), ("", "")]
    texts = write_table(tmp_path / "texts.tsv", rows, "\t")
    predict = (
        "predict",
        tmp_path / "out",
    )
    code, out, errors = lmntk(*predict, texts, "--text-column", "title")
    assert code == 0, errors
    assert len(out.splitlines()) == 3 and {json.loads(line)["label"] for line in out.splitlines()} <= {
        "bad",
        "good",
    }
    assert "1 of 3 texts is empty" in errors and f"1 of 3 texts was {CUT}" in errors
    one_line(
        lmntk(*predict, texts), "texts.tsv line 2: there is no column 'text'; the columns are title, other"
    )
    one_line(lmntk(*predict, folder / "pairs.jsonl"), "pairs.jsonl line 1: template without {b}")
    one_line(
        lmntk(*predict, folder / "pairs.csv", "--text-b-column", "other"),
        "pairs.csv line 2: template without {b}",
    )
    assert len(lmntk(*predict, folder / "hidden.csv")[1].splitlines()) == len(GOOD)


def one_line(result: tuple[int, str, str], words: str) -> None:
    code, out, errors = result
    assert (code, out) == (2, "")
    (line,) = (line for line in errors.splitlines() if line)
    assert words in line


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"test": "hidden.csv"}, "hidden.csv: every label in 'label' is -1, as hubs hide labels; name test texts with labels; `lmntk"),
        ({"train": "hidden.csv"}, "hidden.csv: every label in 'label' is -1, as hubs hide labels; train on texts with labels"),
        ({"train": "pairs.csv", "test": "pairs.csv", "text-b-column": "other"}, "template without {b}, but the example"),
    ],
)  # fmt: skip
def test_what_a_run_refuses_is_one_line(folder, tmp_path, lmntk, changes, words):
    files = {name: folder / value if name in ("train", "test") else value for name, value in changes.items()}
    one_line(lmntk("run", *run_flags(folder, tmp_path / "out", **files)), words)
    assert not (tmp_path / "out").exists()


def test_kernel_and_check_say_it_too(folder, tmp_path, lmntk):
    files = ("--train", folder / "texts.jsonl", "--eval", folder / "texts.jsonl", "--formulas", "sgd")
    model = ("--model", folder / "model", "--max-length", 12, "--out", tmp_path / "k")
    code, _, errors = lmntk("kernel", *model, *files, *PROMPT)
    assert code == 0, errors
    for side in ("train", "eval"):
        assert f"{side}: 2 of 4 texts are empty" in errors and f"{side}: 1 of 4 texts was {CUT}" in errors
    pairs = ("--train", folder / "pairs.jsonl", "--eval", folder / "pairs.jsonl", "--out", tmp_path / "p")
    one_line(lmntk("kernel", "--model", folder / "model", *pairs, *PROMPT), "template without {b}")
    code, out, _ = lmntk("check", folder / "model", "--texts", folder / "texts.jsonl", *PROMPT)
    assert "texts: 2 of 4 texts are empty\n" in out
    assert "1 of 4 texts was cut to 64 tokens\n" in out and "--max-length" not in out
    one_line(
        lmntk("check", folder / "model", "--texts", folder / "pairs.jsonl", *PROMPT), "template without {b}"
    )


def test_kernel_encodes_each_text_once(folder, tmp_path, monkeypatch, lmntk):
    encode, seen = PromptEncoder.encode, []
    monkeypatch.setattr(PromptEncoder, "encode", lambda self, each: seen.append(each) or encode(self, each))
    files = ("--train", folder / "texts.jsonl", "--eval", folder / "texts.jsonl", "--formulas", "sgd")
    assert lmntk("kernel", "--model", folder / "model", *files, *PROMPT, "--out", tmp_path / "k")[0] == 0
    assert len(seen) == 4 + 4


def test_libraries_warnings_are_lines_and_programmers_own_are_not(tmp_path, monkeypatch, lmntk):
    def read(*_: object, **__: object) -> None:
        warnings.warn("first\nsecond", UserWarning, stacklevel=1)
        warnings.warn("soon to change", FutureWarning, stacklevel=1)
        notices.say("a notice")
        notices.say("a notice")

    monkeypatch.setattr("lmntk.tasks.read_data", read)
    monkeypatch.setattr(
        "lmntk.experiment.reading.splits_of",
        lambda *_: [type("S", (), dict.fromkeys(("train", "dev", "test")))],
    )
    before = warnings.showwarning
    code, _, errors = lmntk("split", "--task", "mr", "--data", tmp_path, "--k", 3)
    assert (code, errors) == (0, "lmntk: test_said_texts: first second\nlmntk: a notice\n")
    assert warnings.showwarning is before


def test_a_notebook_hears_it_as_warnings(folder, tmp_path):
    own = {"name": "own", "train": str(folder / "train.csv"), "test": str(folder / "test.csv")}
    own |= {"template": PROMPT[1], "label_words": ["terrible", "great"]}
    values = {
        "model": str(folder / "model"),
        "own_tasks": [own],
        "k": [2],
        "seeds": [13],
        "formulas": ["sgd"],
        "max_length": 12,
    }
    with pytest.warns(Notice) as caught:
        run(make_experiment(values | {"out": tmp_path / "out"}))
    assert [str(warning.message) for warning in caught if warning.category is Notice] == said_of(folder)
