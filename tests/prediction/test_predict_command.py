"""``lmntk predict`` from the command line to the files: any table in, the same answers in each format out."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import BAD, GOOD, write_model
from transformers import BertForMaskedLM, PreTrainedTokenizerFast

from lmntk.errors import UserError
from lmntk.models.build import logit_model
from lmntk.models.loading import load_pretrained
from lmntk.prediction.files import save_predictor
from lmntk.prompts.assembly import Limits
from lmntk.prompts.ensemble import make_prompt_encoder
from lmntk.tangents.linearized import LinearizedModel
from lmntk.tasks.rows import Row

Lmntk = Callable[..., tuple[int, str, str]]
LABELS, WORDS = ["Billing", "Shipping \U0001f4e6"], ["terrible", "great"]
TEXTS = [*GOOD, *BAD, 'a "great" film ;\nvery good', "רע סרט \U0001f642", ""]
OF_A_PREDICTOR = {"intercept": 0.01, "f0_scale": 2.0, "sharpness": 8.0}


def write_predictor(folder: Path, model: Path, trained: bool = True, **changes: Any) -> Path:
    """Writes a predictor of two logits, with a random direction or none."""
    pretrained = load_pretrained(str(model), "float64")
    encoder = make_prompt_encoder(pretrained.tokenizer, ["{a} it was {mask}."], WORDS, Limits(32, None))
    logits = logit_model(pretrained, encoder, False, labels=LABELS)
    torch.manual_seed(0)
    direction = {name: 0.3 * torch.randn_like(p) for name, p in logits.named_parameters()} if trained else {}
    facts = {
        "name": str(model), "fingerprint": pretrained.fingerprint, "kind": pretrained.kind, "base": None, "revision": None,
        "dtype": "float64", "attention": None, "untied": False, "difference": False, "features": "read",
    }  # fmt: skip
    prompt = {
        "templates": ["{a} it was {mask}."],
        "label_words": WORDS,
        "reduce": None,
        "max_length": 32,
        "text_a_limit": None,
    }
    solution = {"method": "sgd ridge", **OF_A_PREDICTOR, **changes.pop("solution", {})}
    description = {"mode": "prompt", "labels": LABELS, "model": facts, "prompt": prompt, "solution": solution}
    folder.mkdir()
    save_predictor(folder, [direction], logits, description | changes)
    return folder


def rows_of(column: str = "message") -> list[dict[str, str]]:
    return [
        {"id": f"00{i}", column: text, "label": LABELS[i % 2], "amount": "1,50"}
        for i, text in enumerate(TEXTS)
    ]


def write_csv(path: Path, rows: list[dict[str, str]], delimiter: str = ";") -> Path:
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        table = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        table.writeheader()
        table.writerows(rows)
    return path


def read_csv(path: Path, delimiter: str = ",") -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predict")
    model = write_model(folder / "model")
    write_predictor(folder / "plain", model)
    remembered = {"text": "message", "text_b": None}
    write_predictor(folder / "fit", model, columns=remembered, solution={"look_below": 0.501, "rough": True})
    write_predictor(folder / "untrained", model, trained=False, solution={"intercept": [0.5, -0.25]})
    write_csv(folder / "tickets.csv", rows_of())
    return folder


def lines_of(lmntk: Lmntk, *arguments: object) -> list[dict[str, Any]]:
    code, out, errors = lmntk("predict", *arguments)
    assert code == 0, errors
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.parametrize(("ending", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_a_table_comes_back_with_the_answers_beside_it(
    folder: Path, tmp_path: Path, command_line: Lmntk, ending: str, delimiter: str
) -> None:
    target = tmp_path / f"classes.{ending}"
    code, out, errors = command_line("predict", folder / "fit", folder / "tickets.csv", "--out", target)
    assert code == 0, errors
    found, expected = read_csv(target, delimiter), rows_of()
    answers = ["label_predicted", "probability", "margin", "look"]
    assert list(found[0]) == [*expected[0], *answers]
    assert [{name: row[name] for name in expected[0]} for row in found] == expected
    lines = lines_of(command_line, folder / "fit", folder / "tickets.csv")
    for row, line in zip(found, lines, strict=True):
        first, second = line["decisions"]
        assert row["label_predicted"] == line["label"] == LABELS[line["class"]] == LABELS[second > first]
        assert line["probabilities"][line["class"]] == max(line["probabilities"])
        assert float(row["probability"]) == pytest.approx(max(line["probabilities"]), abs=2e-6)
        assert line["margin"] == pytest.approx(abs(first - second))
        assert float(row["margin"]) == pytest.approx(line["margin"], rel=1e-5)
        assert (row["look"], line["look"]) in [("yes", True), ("", False)]
        assert line["look"] == (max(line["probabilities"]) < 0.501 or row["message"] == "")
    looks = sum(row["look"] == "yes" for row in found)
    assert 0 < looks < len(found)
    assert f"{len(found)} texts classified into {target}" in out and f"; {looks} to look at" in out
    assert "the input already has a column 'label'; the answers go into 'label_predicted'" in errors
    assert errors.count("the probabilities are rough") == 1 and "1 of 17 texts is empty" in errors


def test_each_format_gives_the_same_answers_window_by_window(
    folder: Path, tmp_path: Path, command_line: Lmntk, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets, pyarrow = pytest.importorskip("datasets"), pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    whole = lines_of(command_line, folder / "plain", folder / "tickets.csv", "--text-column", "message")
    monkeypatch.setattr("lmntk.prediction.stream.WINDOW", 2)
    rows = rows_of("text")
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet", row_group_size=4)
    write_csv(tmp_path / "rows.tsv", rows, "\t")
    (tmp_path / "rows.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("saved", "rows.parquet", "rows.tsv", "rows.json"):
        target = tmp_path / f"{name}.csv"
        few = ("--batch-size", 2)
        code, _, errors = command_line("predict", folder / "plain", tmp_path / name, "--out", target, *few)
        assert code == 0, errors
        found = read_csv(target)
        assert [{column: row[column] for column in rows[0]} for row in found] == rows
        assert [row["label_predicted"] for row in found] == [line["label"] for line in whole]
        margins = [float(row["margin"]) for row in found]
        np.testing.assert_allclose(margins, [line["margin"] for line in whole], rtol=2e-5, atol=1e-9)


def test_parquet_is_not_held_as_a_whole(
    folder: Path, tmp_path: Path, command_line: Lmntk, monkeypatch: pytest.MonkeyPatch
) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("lmntk.prediction.stream.WINDOW", 1)
    parquet.write_table(pyarrow.Table.from_pylist(rows_of("text")), tmp_path / "a.parquet", row_group_size=4)
    made: list[Row] = []
    init = Row.__init__
    monkeypatch.setattr(Row, "__init__", lambda self, *a: (init(self, *a), made.append(self))[0])
    seen: list[int] = []

    def stop(*arguments: Any) -> None:
        seen.append(len(made))
        raise UserError("stop")

    monkeypatch.setattr("lmntk.prediction.stream._answers", stop)
    assert command_line("predict", folder / "plain", tmp_path / "a.parquet", "--batch-size", 2)[0] == 2
    assert seen == [2]


def test_without_a_direction_the_decisions_are_the_logits_moved(
    folder: Path, command_line: Lmntk, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = folder / "tickets.csv", "--text-column", "message"
    monkeypatch.setattr(LinearizedModel, "__init__", lambda *a: pytest.fail("a tangent pass"))
    found = lines_of(command_line, folder / "untrained", *arguments)
    network = BertForMaskedLM.from_pretrained(folder / "model", dtype=torch.float64).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "model")
    ids = tokenizer.convert_tokens_to_ids(WORDS)
    for text, line in zip(TEXTS, found, strict=True):
        batch = tokenizer(f"{text} it was [MASK].", return_tensors="pt")
        with torch.no_grad():
            logits = network(**batch).logits[batch["input_ids"] == tokenizer.mask_token_id][0, ids]
        np.testing.assert_allclose(line["decisions"], logits / 2 + torch.tensor([0.5, -0.25]), atol=1e-6)


@pytest.mark.parametrize("option", ["--model-dir", "--input", "--output"])
def test_old_options_are_gone(folder: Path, command_line: Lmntk, option: str) -> None:
    code, _, errors = command_line("predict", folder / "plain", folder / "tickets.csv", option, "x")
    assert code == 2 and f"No such option: {option}" in errors
