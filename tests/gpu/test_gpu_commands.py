"""The options at the command line, and what kernels say of how they were made."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tiny import BAD, GOOD, write_model

from lmntk.cli.app import app, main
from lmntk.kernels.kernel import Kernel


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("gpu")
    write_model(place / "model")
    for name, texts in (
        ("train", zip(GOOD[:4] + BAD[:4], [1] * 4 + [0] * 4, strict=True)),
        ("test", zip(GOOD[4:] + BAD[4:], [1] * 3 + [0] * 3, strict=True)),
    ):
        lines = [json.dumps({"text_a": text, "label": label}) for text, label in texts]
        (place / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return place


def lmntk(*arguments, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["lmntk", *map(str, arguments)])
    code = 0
    try:
        main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    shown = capsys.readouterr()
    return code, shown.out, shown.err


@pytest.fixture
def command(monkeypatch, capsys):
    return lambda *arguments: lmntk(*arguments, monkeypatch=monkeypatch, capsys=capsys)


def kernel(folder, out, *more):
    prompt = ("--template", "{a} it was {mask} .", "--label-words", "terrible,great")
    texts = ("--train", folder / "train.jsonl", "--eval", folder / "test.jsonl")
    return ("kernel", "--model", folder / "model", *texts, *prompt, "--out", out, *more)


def test_kernels_say_their_precision_and_its_loss_and_are_not_taken_for_others(folder, tmp_path, command):
    assert command(*kernel(folder, tmp_path / "full"))[0] == 0
    code, _, notes = command(*kernel(folder, tmp_path / "low", "--precision", "bfloat16"))
    assert code == 0
    assert "bfloat16 beside float32 on 8 texts: kernels are off by sgd" in " ".join(notes.split())
    full, low = (Kernel.load(tmp_path / name / "sgd.safetensors") for name in ("full", "low"))
    assert full.provenance["precision"] == "float32"
    assert "precision_loss" not in full.provenance
    assert low.provenance["precision"] == "bfloat16"
    error = float(np.linalg.norm(low.values - full.values) / np.linalg.norm(full.values))
    said = low.provenance["precision_loss"]["kernels"]["sgd"]
    assert 1e-4 < error < 0.1
    assert said / 4 < error < 4 * said
    code, _, complaint = command(*kernel(folder, tmp_path / "full", "--precision", "bfloat16"))
    assert code == 2
    assert "is of another precision (float32, not bfloat16)" in " ".join(complaint.split())


def test_two_devices_at_the_command_line(folder, tmp_path, command):
    assert command(*kernel(folder, tmp_path / "one"))[0] == 0
    assert command(*kernel(folder, tmp_path / "two", "--device", "cpu,cpu", "--batch-size", "32"))[0] == 0
    for formula in ("sgd", "signgd", "asigngd"):
        one, two = (Kernel.load(tmp_path / name / f"{formula}.safetensors") for name in ("one", "two"))
        assert np.array_equal(one.values, two.values)


def test_a_kernel_leaves_nothing_of_what_was_begun_with_another_batch_size(
    folder, tmp_path, command, monkeypatch
):
    """Killed before its kernels are there, or when they are and the scratch files too."""

    class KilledError(Exception):
        pass

    def killing(*arguments, **named):
        raise KilledError

    out, scratch = tmp_path / "out", tmp_path / "out" / "scratch"
    for name, size in (("save_tensors", "4"), ("WorkFolder.finish", "2")):
        with monkeypatch.context() as patched:
            patched.setattr(f"lmntk.experiment.kernel_files.{name}", killing)
            with pytest.raises(KilledError):
                command(*kernel(folder, out, "--batch-size", size))
        assert list(scratch.rglob("tiles/*"))
    assert command(*kernel(folder, out, "--batch-size", "2"))[0] == 0
    assert not scratch.exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--precision", "tf32"), "precision: tf32 needs a GPU, and this is cpu"),
        (("--precision", "half"), "precision: 'half' is not one of float32, tf32, bfloat16"),
        (
            ("--precision", "bfloat16", "--dtype", "float64"),
            "precision: bfloat16 would spoil --dtype float64",
        ),
        (("--device-memory", "much"), "device-memory: 'much' is not a size; write 4GiB"),
        (
            ("--device-memory", "4GiB"),
            "device-memory: cpu has no memory of its own; bound the process with --memory",
        ),
        (("--device", "cpu,meta"), "device: 'cpu,meta' is of several kinds"),
    ],
)
def test_mistakes(folder, tmp_path, command, more, message):
    more = more if "--device" in more else (*more, "--device", "cpu")
    code, _, complaint = command(*kernel(folder, tmp_path / "out", *more))
    assert code == 2
    assert message in " ".join(complaint.split())


def test_runs_in_two_precisions_are_two_runs(folder, tmp_path, command):
    texts = (
        "--train",
        folder / "train.jsonl",
        "--test",
        folder / "test.jsonl",
        "--text-column",
        "text_a",
        "--k",
        2,
        "--seeds",
        13,
    )
    prompt = ("--template", "{a} it was {mask} .", "--label-words", "terrible,great")
    options = ("--model", folder / "model", *texts, *prompt, "--formulas", "sgd")
    out = ("--out", tmp_path / "run")
    assert command("run", *options, *out)[0] == 0
    code, _, notes = command("run", *options, *out, "--precision", "bfloat16")
    assert code == 0
    assert "were finished before" not in notes
    assert "bfloat16 beside float32 on 4 texts" in " ".join(notes.split())
    code, _, notes = command("run", *options, *out, "--precision", "bfloat16")
    assert (code, "were finished before" in notes) == (0, True)
    paths = (tmp_path / "run" / "kernels").glob("*/test-sgd.safetensors")
    kept = {found["precision"]: found for found in (Kernel.load(path).provenance for path in paths)}
    assert set(kept) == {"float32", "bfloat16"}  # side by side
    found = kept["bfloat16"]
    assert set(found["precision_loss"]["kernels"]) == {"sgd"}
    code, shown, _ = command(
        "plan", *options, "--out", tmp_path / "other", "--precision", "bfloat16", "--device", "cpu,cpu"
    )
    assert code == 0
    assert "GPU" not in shown
    assert app.info.name == "lmntk"
