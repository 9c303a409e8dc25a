"""``lmntk explain`` on a fit: exact sums and influences, held-out texts, changes, the page, and mistakes in one line."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kept_fits import NEW, Oracle, messages, write_lines, write_table

from lmntk.attribution.changes import Changes
from lmntk.estimator.new_texts import with_training_texts
from lmntk.estimator.solved import Solved
from lmntk.prediction.files import load_predictor
from lmntk.tasks.example import Example

CommandLine = Callable[..., tuple[int, str, str]]


def oracle_of(folder: Path, texts: list[str] | None = None) -> Oracle:
    """Return plain algebra on a fit's kernel, and of texts on theirs."""
    if texts is None:
        return Oracle(folder)
    from lmntk.engine.settings import Settings

    loaded, solved = load_predictor(folder), Solved.read(folder)
    new = with_training_texts(loaded, solved, [Example(text) for text in texts], Settings())
    return Oracle(folder, new.cross, new.logits)


def margin_of(decisions: np.ndarray, record: dict[str, Any], text: dict[str, Any]) -> float:
    """Return the margin of a text's predicted class over its runner-up, of decisions [C]."""
    first, second = (record["labels"].index(text[name]) for name in ("predicted", "runner_up"))
    if len(decisions) == 1:
        return float(decisions[0] if first == 1 else -decisions[0])
    return float(decisions[first] - decisions[second])


def known(values: list[float | None]) -> list[float]:
    """Return the numbers among them."""
    return [value for value in values if value is not None]


@pytest.mark.parametrize(
    "name",
    [
        "prompt",
        pytest.param("head", marks=pytest.mark.slow),
        pytest.param("three", marks=pytest.mark.slow),
        "shared",
    ],
)
def test_new_texts_are_an_offset_and_contributions(
    fits: Callable[[str], Path], tmp_path: Path, command_line: CommandLine, name: str
) -> None:
    folder, file = fits(name), write_lines(tmp_path / "new.jsonl", NEW)
    code, out, _ = command_line("explain", folder, file, "--out", tmp_path, "--json")
    assert code == 0
    record, oracle = json.loads(out), oracle_of(folder, NEW)
    everything = list(range(len(oracle.labels)))
    assert [text["text"] for text in record["texts"]] == NEW
    for m, text in enumerate(record["texts"]):
        margin = margin_of(oracle.decisions(everything)[m], record, text)
        assert text["margin"] == pytest.approx(margin, abs=1e-8)
        assert margin >= 0
        assert text["offset"] + sum(text["contributions"]) == pytest.approx(margin, abs=1e-8)
        assert text["offset"] == pytest.approx(
            margin_of((oracle.f0 / oracle.scale + oracle.record["intercepts"])[m], record, text), abs=1e-8
        )
        for number in everything:
            others = oracle.decisions([each for each in everything if each != number])[m]
            assert text["influence"][number] == pytest.approx(
                margin - margin_of(others, record, text), abs=1e-8
            )
        assert sum(text["layers"].values()) == pytest.approx(sum(text["contributions"]), abs=1e-8)
        assert {"embeddings", "layer 0", "layer 1"} <= set(text["layers"])
    assert json.loads((tmp_path / "explain.json").read_text())["texts"] == record["texts"]
    assert record["regime"]["regime"] is None
    assert "not measured" in record["regime"]["phrase"]


@pytest.mark.slow
def test_predictions_are_those_of_predict(
    fits: Callable[[str], Path], tmp_path: Path, command_line: CommandLine
) -> None:
    for name in ("three", "contrasts", "shared"):
        file = write_lines(tmp_path / "new.jsonl", NEW)
        _, out, _ = command_line("explain", fits(name), file, "--out", tmp_path / name, "--json")
        explained = json.loads(out)["texts"]
        _, out, _ = command_line("predict", fits(name), file, "--text-column", "message")
        predicted = [json.loads(line) for line in out.splitlines()]
        assert [text["predicted"] for text in explained] == [text["label"] for text in predicted]
        assert [text["margin"] for text in explained] == pytest.approx(
            [text["margin"] for text in predicted], rel=1e-5
        )


@pytest.mark.parametrize("name", ["prompt", "three", "shared"])
def test_without_a_file_training_texts_are_decided_by_the_others(
    fits: Callable[[str], Path], tmp_path: Path, command_line: CommandLine, name: str
) -> None:
    folder = fits(name)
    code, out, _ = command_line("explain", folder, "--out", tmp_path, "--json", "--texts", "4")
    assert code == 0
    record, oracle = json.loads(out), oracle_of(folder)
    everything = list(range(len(oracle.labels)))
    assert record["held_out"]
    assert len(record["texts"]) == 4
    own = {}
    for number in everything:
        decisions = oracle.decisions([each for each in everything if each != number])[number]
        of_class = np.array([-decisions[0], decisions[0]]) / 2 if len(decisions) == 1 else decisions
        label = oracle.labels[number]
        own[number + 1] = of_class[label] - np.delete(of_class, label).max()
    assert [text["row"] for text in record["texts"]] == sorted(own, key=lambda row: own[row])[:4]
    for text in record["texts"]:
        number = text["row"] - 1
        left = [each for each in everything if each != number]
        assert [each for each, value in enumerate(text["contributions"]) if value is None] == [number]
        assert [each for each, value in enumerate(text["influence"]) if value is None] == [number]
        margin = margin_of(oracle.decisions(left)[number], record, text)
        assert text["offset"] + sum(known(text["contributions"])) == pytest.approx(margin, abs=1e-8)
        for other in left:
            decided = oracle.decisions([each for each in left if each != other])[number]
            assert text["influence"][other] == pytest.approx(
                margin - margin_of(decided, record, text), abs=1e-8
            )
        assert text["label"] == record["training"][number]["label"]
    assert any("--texts explains more" in note for note in record["notes"])


def test_shapley_values_are_those_of_all_orders(
    fits: Callable[[str], Path], tmp_path: Path, command_line: CommandLine
) -> None:
    folder = fits("prompt")
    code, out, _ = command_line(
        "explain", folder, "--text", NEW[0], "--shapley", "exact", "--out", tmp_path, "--json"
    )
    assert code == 0
    record, oracle = json.loads(out), oracle_of(folder, NEW[:1])
    (text,) = record["texts"]
    count = len(oracle.labels)
    worth = {
        part: margin_of(oracle.decisions(list(part))[0], record, text)
        for size in range(count + 1)
        for part in itertools.combinations(range(count), size)
    }
    for number in range(count):
        value = sum(
            (worth[tuple(sorted((*part, number)))] - of_part)
            * math.factorial(len(part))
            * math.factorial(count - len(part) - 1)
            / math.factorial(count)
            for part, of_part in worth.items()
            if number not in part
        )
        assert text["shapley"][number] == pytest.approx(value, abs=1e-8)
    assert sum(text["shapley"]) == pytest.approx(text["margin"] - text["offset"], abs=1e-8)
    assert set(text["shapley_errors"]) == {0.0}


def test_many_texts_have_shapley_values_with_errors(
    fits: Callable[[str], Path], tmp_path: Path, command_line: CommandLine
) -> None:
    code, out, _ = command_line(
        "explain", fits("head"), "--text", NEW[0], "--shapley", "20", "--out", tmp_path, "--json"
    )
    assert code == 0
    (text,) = json.loads(out)["texts"]
    assert sum(text["shapley"]) == pytest.approx(text["margin"] - text["offset"], abs=1e-8)
    assert all(error > 0 for error in text["shapley_errors"])


@pytest.mark.parametrize("name", ["prompt", "three", "shared"])
@pytest.mark.parametrize("held_out", [True, False])
def test_a_change_is_training_anew(
    fits: Callable[[str], Path], tmp_path: Path, command_line: CommandLine, name: str, held_out: bool
) -> None:
    folder = fits(name)
    record = json.loads((folder / "training.json").read_text())
    count, labels = len(record["numbers"]), record["labels"]
    new_label = labels[(record["numbers"][4] + 1) % len(labels)]
    asked = ("--without", record["texts"][0][0], "--without-rows", "2,3", "--relabel", f"5={new_label}")
    more = () if held_out else itertools.chain.from_iterable(("--text", text) for text in NEW)
    code, out, _ = command_line("explain", folder, *more, *asked, "--out", tmp_path, "--json")
    assert code == 0
    done = json.loads(out)
    assert [text["row"] for text in done["without"]] == [1, 2, 3]
    assert [(text["row"], text["label"]) for text in done["relabelled"]] == [(5, new_label)]
    changed = np.array(record["numbers"])
    changed[4] = labels.index(new_label)
    assert done["left"] == {label: int((changed[3:] == number).sum()) for number, label in enumerate(labels)}
    oracle = oracle_of(folder, None if held_out else NEW)
    assert len(done["texts"]) == (count - 3 if held_out else len(NEW))
    assert done["flips"] == sum(text["before"] != text["after"] for text in done["texts"])
    for text in done["texts"]:
        m = text["row"] - 1 if held_out else NEW.index(text["text"])
        out_of_it = [m] if held_out else []
        left = [n for n in range(count) if n not in out_of_it]
        before, after = (
            oracle.decisions(left)[m],
            oracle.decisions([n for n in left if n > 2], changed)[m],
        )
        assert text["decisions"] == pytest.approx(after.tolist(), abs=1e-8)
        classes = [int(d[0] > 0) if len(d) == 1 else int(d.argmax()) for d in (before, after)]
        assert [text["before"], text["after"]] == [labels[number] for number in classes]
    assert json.loads((tmp_path / "changes.json").read_text())["texts"] == done["texts"]


def test_contrasts_change_as_their_own_ridge_does(
    fits: Callable[[str], Path], tmp_path: Path, command_line: CommandLine
) -> None:
    """Of contrasts the oracle is ridge on the kernel of C - 1 outputs with targets in their basis."""
    folder = fits("contrasts")
    solved, oracle = Solved.read(folder), oracle_of(folder)
    code, out, _ = command_line("explain", folder, "--without-rows", "1", "--out", tmp_path, "--json")
    assert code == 0
    basis = solved.basis
    n, k = solved.kernel.shape[:2]
    targets = (np.eye(3)[oracle.labels] - oracle.logits / oracle.scale) @ basis
    for text in json.loads(out)["texts"]:
        m = text["row"] - 1
        left = [number for number in range(1, n) if number != m]
        rows = len(left) * k
        matrix = solved.kernel[np.ix_(left, range(k), left, range(k))].reshape(rows, rows)
        alpha = np.linalg.solve(matrix + oracle.ridge * np.eye(rows), targets[left].ravel())
        moved = solved.kernel[np.ix_(left, range(k), [m], range(k))].reshape(rows, k).T @ alpha
        expected = moved @ basis.T + oracle.logits[m] / oracle.scale + solved.intercept
        assert text["decisions"] == pytest.approx(expected.tolist(), abs=1e-8)


@pytest.mark.parametrize(
    ("rows", "remark"),
    [("1,3,5,7", "of class 'bad'"), ("1,2,3,4,5,6,7,8", "the offset alone")],
)
def test_one_class_or_no_text_may_be_left(
    fits: Callable[[str], Path], tmp_path: Path, command_line: CommandLine, rows: str, remark: str
) -> None:
    code, out, _ = command_line(
        "explain", fits("prompt"), "--text", NEW[0], "--without-rows", rows, "--out", tmp_path, "--json"
    )
    assert code == 0
    done, oracle = json.loads(out), oracle_of(fits("prompt"), NEW[:1])
    assert remark in " ".join(done["notes"])
    left = [n for n in range(8) if str(n + 1) not in rows.split(",")]
    assert done["texts"][0]["decisions"] == pytest.approx(oracle.decisions(left)[0].tolist(), abs=1e-8)


def test_people_read_texts(fits: Callable[[str], Path], tmp_path: Path, command_line: CommandLine) -> None:
    folder = fits("head")
    code, out, _ = command_line("explain", folder, "--text", NEW[0], "--out", tmp_path)
    assert code == 0
    assert f"{NEW[0]!r} is " in out
    assert "the kernel regime was not measured" in out
    assert re.search(r"^  for +\+\d\.\d{3}  (good|bad), row \d+: 'a \w+ \w+( \.)?'", out, re.MULTILINE)
    assert out.splitlines()[-1] == f"More: {tmp_path / 'explain.html'}"
    code, out, _ = command_line("explain", folder, "--without-rows", "1", "--out", tmp_path)
    assert code == 0
    assert out.startswith("without row 1, good: 'a great film'")
    assert re.search(
        r"another class is predicted of \d of 11 training texts, each decided by the others;", out
    )


@pytest.mark.parametrize(
    "name", ["prompt", "three", "shared", pytest.param("contrasts", marks=pytest.mark.slow)]
)
def test_a_fit_has_the_same_sums_on_its_page(fits: Callable[[str], Path], name: str) -> None:
    folder = fits(name)
    record, refits = json.loads((folder / "fit.json").read_text()), Solved.read(folder).refits()
    doubtful, labels = record["doubtful"], list(record["counts"])
    count = sum(record["counts"].values())
    assert [each["kind"] for each in doubtful] == ["hardest"] * 5 + ["doubtful"] * (len(doubtful) - 5)
    assert len({each["row"] for each in doubtful}) == len(doubtful) == min(count, 10)
    for each in doubtful:
        row = each["row"] - 1
        held = refits.holding_out([row])
        every = np.ones((1, held.texts.texts))
        without = np.ones((held.texts.texts, held.texts.texts)) - np.eye(held.texts.texts)
        lost = held.outcomes(Changes(every))[0, 0] - held.outcomes(Changes(without))[:, 0]  # each refitted
        lost = np.insert(lost, row, 0.0, axis=0)  # training went without the text itself
        own, rival = labels.index(each["label"]), labels.index(each["rival"])
        assert each["decided"] in (each["label"], each["rival"])
        of_class = np.hstack([-lost, lost]) / 2 if lost.shape[1] == 1 else lost
        values = of_class[:, own] - of_class[:, rival]
        for side, ordered in (("speak_for", np.argsort(-values)), ("speak_against", np.argsort(values))):
            expected = [n for n in ordered[:3] if (values[n] > 0) == (side == "speak_for") and values[n] != 0]
            assert [spoken["row"] - 1 for spoken in each[side]] == expected
            assert [spoken["value"] for spoken in each[side]] == pytest.approx(values[expected], abs=1e-8)
            assert [spoken["label"] for spoken in each[side]] == [
                labels[refits.texts.labels[n]] for n in expected
            ]


def test_texts_on_the_page_are_text(model: Path, tmp_path: Path, command_line: CommandLine) -> None:
    script = "<script>alert(1)</script> & a fine film"
    table = write_table(tmp_path / "texts.tsv", [*messages(3), (script, "good"), ("<b>flat</b>", "bad")])
    code, _, _ = command_line(
        "fit",
        table,
        "--model",
        model,
        "--text-column",
        "message",
        "--label-column",
        "category",
        "--out",
        tmp_path / "fit",
    )
    assert code == 0
    code, _, _ = command_line("explain", tmp_path / "fit", "--text", "<img src=x>", "--texts", "30")
    assert code == 0
    page = (tmp_path / "fit/explain.html").read_text(encoding="utf8")
    assert "&lt;img src=x&gt;" in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; a fine film" in page
    for tag in ("<script", "<b>flat", "<img"):
        assert tag not in page
    # what is read are sentences and texts: numbers are folded away
    shown = re.sub(r"<details>.*?</details>|<style>.*?</style>", "", page, flags=re.DOTALL)
    assert str(tmp_path) in page
    assert str(tmp_path) not in shown  # nor is the folder's path
    assert not re.search(r"[+-]0\.\d", shown)
    assert "the kernel regime was not measured" in shown.lower()
