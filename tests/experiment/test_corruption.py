"""Kept files that are cut short, flipped, emptied or replaced: named, and made anew to the results of a run from nothing, or one line."""

from __future__ import annotations

import csv
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load as load_tensors_of
from safetensors.torch import load_file
from tiny import films, write_model

from lmntk.engine import rates as calibration
from lmntk.errors import UserError
from lmntk.experiment.configuration import TextKernels, from_flags, make_experiment
from lmntk.experiment.kernel_files import kernels_of_texts
from lmntk.experiment.run import run
from lmntk.experiment.solve_folder import solve_folder
from lmntk.prediction.description import WantedPredictor, find_predictor
from lmntk.prediction.files import load_predictor
from lmntk.runs.reading import read_run
from lmntk.system import kept
from lmntk.system.progress import Silent


def flipped(content: bytes) -> bytes:
    """Flip one bit of a number: of a digit that stays a digit, or of the last entry of a tensor."""
    changed, place = bytearray(content), len(content) - 1
    if content[:1] == b"{":
        mark = content.find(b'"checksum"')
        place = max(
            at for at, letter in enumerate(content) if 48 <= letter < 58 and not mark < at < mark + 24
        )
    changed[place] ^= 1
    return bytes(changed)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda content: content[: len(content) * 2 // 3],
    "flipped": flipped,
    "emptied": lambda content: b"",
    "another shape": lambda content: (
        b'{"rows": {"a": 1}, "experiment": [3], "format": 7, "steps": "many", "files": 2}'
    ),
    "a list": lambda content: b"[[1, 2], null]",
}
READ = ("*.json", "*.safetensors")  # what a later process reads; tables and pages are written anew each time
UNREAD = ("verdicts.json", "machine.json")  # written by each run; of the plan alone
OF_LIBRARIES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "model.safetensors",
    "lmntk-checksums.json",
)


@pytest.fixture(autouse=True)
def fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run reads as a process of its own would, and does not measure this machine."""
    monkeypatch.setattr(kept, "_verified", set())
    monkeypatch.setattr(kept, "_named", set())
    monkeypatch.setattr(
        calibration, "measure_rates", lambda device: calibration.Rates(1, 1, 1, 1, 1, "some machine")
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path, Any]:
    """A run with everything that is kept."""
    base = tmp_path_factory.mktemp("corruption")
    write_model(base / "model")
    own = films(base, 24, 6)
    how = {
        "learning_rates": [0.1],
        "batch_sizes": [2],
        "steps": 2,
        "eval_every": 1,
        "save_weights": True,
        "export": True,
    }
    values = {
        "model": str(base / "model"), "own_tasks": [own], "k": [2], "seeds": [13], "formulas": ["sgd", "asigngd"],
        "solvers": ["ridge", "asym"], "save_models": True, "finetune": ["sgd"], "finetuning": how, "diagnose": True,
        "out": base / "out",
    }  # fmt: skip
    run(make_experiment(values))
    return values, base / "out", contents(base / "out")


def files(out: Path) -> list[Path]:
    return [path for pattern in READ for path in sorted(out.rglob(pattern)) if path.name not in UNREAD]


def contents(out: Path) -> dict[str, Any]:
    """Return all that is kept, numbers to the bit, without times."""
    found: dict[str, Any] = {}
    for path in files(out):
        name = str(path.relative_to(out))
        if path.suffix == ".json":
            with kept.without_checksums():  # transformers' own have none
                record = kept.read_record(path)
            found[name] = {key: value for key, value in record.items() if key not in ("runs", "files")}
        else:
            found[name] = {label: tensor.numpy().tobytes() for label, tensor in load_file(path).items()}
    found.pop("configuration.json")
    return found | {"results": list(csv.reader((out / "results.csv").open()))}


def copied(finished: tuple[dict[str, Any], Path, Any], tmp_path: Path) -> tuple[Any, Path]:
    values, out, _ = finished
    shutil.copytree(out, tmp_path / "out", symlinks=True)
    return make_experiment(values | {"out": tmp_path / "out"}), tmp_path / "out"


QUICK = [(True, 0), (True, 3), (False, 1), (False, 2)]  # each file in most ways; the slow ones are the rest
CASES = [pytest.param(records, way, marks=() if (records, way) in QUICK else pytest.mark.slow)
         for records in (True, False) for way in range(len(DAMAGES))]  # fmt: skip


@pytest.mark.parametrize(("records", "way"), CASES)
def test_whatever_is_damaged_is_named_and_made_anew(finished, tmp_path, caplog, records, way):
    """Every file is damaged, each in its own way, and over the cases in every way; then all but the records that vouch for them."""
    experiment, out = copied(finished, tmp_path)
    ways = list(DAMAGES.values())
    damaged = [
        path
        for path in files(out)
        if records or path.parent.name not in ("splits", "finetunings", "diagnoses")
    ]
    assert len(damaged) >= 15
    for index, path in enumerate(damaged):
        path.write_bytes(ways[(index + way) % len(ways)](path.read_bytes()))
    with caplog.at_level(logging.WARNING, "lmntk"):
        run(experiment)
    assert contents(out) == finished[2]
    unnamed = [path for path in damaged if repr(str(path)) not in caplog.text]
    # what a damaged record vouched for is made anew unseen, and of a predictor and an exported folder the first damage says all
    unseen = ("models", "finetunings") if records else ("models", "model")
    assert [path for path in unnamed if not set(path.relative_to(out).parts[:-1]) & set(unseen)] == []
    assert len(unnamed) < len(damaged) / 2


@pytest.mark.parametrize("command", ["solve", "report", "predict"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_commands_that_read_say_one_line_or_the_same(finished, tmp_path, command, damage):
    _, out = copied(finished, tmp_path)

    def result() -> Any:
        if command == "solve":
            return solve_folder(out, "films")
        if command == "report":
            found = read_run(out)
            kernel = found.kernel("films-k2-seed13-prompt")
            return (
                found.rows,
                found.splits,
                found.diagnoses,
                found.experiment,
                kernel is None or kernel.values.tolist(),
            )
        path, others = find_predictor(out, WantedPredictor(method="sgd ridge"))
        return str(path), others, load_predictor(path).description

    expected = result()
    for path in files(out):
        if path.parent.name == "model" or (command != "predict") == ("models" in path.parts):
            continue
        content = path.read_bytes()
        path.write_bytes(DAMAGES[damage](content))
        for known in (kept._verified, kept._named):
            known.clear()
        found, said = None, ""
        try:
            found = result()
        except UserError as error:
            said = str(error)
        is_named = kept._named == {str(path)}  # on stderr
        if said:  # one line, on this file
            assert "\n" not in said and (is_named or ("damaged" in said and path.name in said))
        else:
            assert found == expected or is_named
        path.write_bytes(content)


def test_damaged_kernels_of_texts_in_files_are_made_anew(finished, tmp_path, caplog):
    values, out, _ = finished
    texts = {"train": out.parent / "test.jsonl", "evaluate": out.parent / "test.jsonl"}
    prompt = {"template": "{a} it was {mask}.", "label_words": "terrible,great"}
    wanted = from_flags(
        TextKernels, {"model": values["model"], **texts, **prompt, "out": tmp_path / "k", "formulas": "sgd"}
    )
    kernels_of_texts(wanted, Silent())
    whole = {path: path.read_bytes() for path in sorted((tmp_path / "k").glob("*.safetensors"))}
    assert len(whole) == 2
    for damage in (DAMAGES["flipped"], DAMAGES["emptied"]):
        for path, content in whole.items():
            path.write_bytes(damage(content))
            kernels_of_texts(wanted, Silent())
            assert {
                each: load_file(each)["values" if each.stem == "sgd" else "eval"].numpy().tobytes()
                for each in whole
            } == {
                each: load_tensors_of(known)["values" if each.stem == "sgd" else "eval"].numpy().tobytes()
                for each, known in whole.items()
            }
            assert repr(str(path)) in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damaged_file_alone(finished, tmp_path, damage):
    experiment, out = copied(finished, tmp_path)
    for path in files(out):
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
        run(experiment)
        assert contents(out) == finished[2], path


def test_tensors_say_when_they_were_damaged(tmp_path):
    """Every single bit of a file, every cut: it is read as it was, or refused."""
    path, tensors = (
        tmp_path / "t.safetensors",
        {"a": torch.arange(2.0), "b": torch.zeros(0, 2)},
    )
    kept.save_tensors(path, tensors, {"key": "0a"})
    whole, refused = path.read_bytes(), 0
    for bit in range(0, 8 * len(whole), 5):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bytes(changed))
        try:
            found, metadata = kept.load_tensors(path)
        except kept.DamagedError as error:
            refused += "\n" not in str(error)
        else:
            assert metadata["key"] == "0a" and set(found) == set(tensors)
            assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert refused > 1.2 * len(whole)
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(kept.DamagedError):
            kept.load_tensors(path)


def test_a_record_says_when_it_was_damaged(tmp_path):
    """Every single bit of a record: it is read as it was, or refused."""
    content = {"a": 1.25, "b": [None, "é", True], "c": {"d": float("nan")}}
    kept.write_record(tmp_path / "r.json", content)
    expected = kept.read_record(tmp_path / "r.json")
    assert expected == content | {"c": {"d": None}}
    whole = (tmp_path / "r.json").read_bytes()
    assert json.loads(whole)["checksum"]
    refused = 0
    for bit in range(0, 8 * len(whole), 5):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        (tmp_path / "r.json").write_bytes(bytes(changed))
        try:
            found = kept.read_record(tmp_path / "r.json")
        except kept.DamagedError as error:
            refused += "\n" not in str(error)
        else:
            assert {name: found[name] for name in content} == expected  # the word "checksum", or a space
    assert refused > 0.8 * len(whole)
