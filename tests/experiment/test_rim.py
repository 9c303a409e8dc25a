"""Inputs and disks that nobody means: one line, exit code 2, and nothing half-written."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from tiny import write_model, write_rows

from lmntk.cli.app import main
from lmntk.errors import UserError
from lmntk.experiment.configuration import FactorKernels, from_flags, make_experiment
from lmntk.experiment.published import published
from lmntk.reports.results import summary_markdown
from lmntk.system import kept
from lmntk.system.executors import ray_cluster
from lmntk.system.files import reporting_disk


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rim")
    write_model(folder / "model")
    write_rows(folder / "train.jsonl", 16)
    write_rows(folder / "test.jsonl", 4, offset=1)
    return folder


def flags(base: Path, *more: object) -> list[str]:
    texts = ["--train", base / "train.jsonl", "--test", base / "test.jsonl", "--text-column", "text_a"]
    prompt = ["--template", "{a} it was {mask}.", "--label-words", "terrible,great", "--k", 2, "--seeds", 13]
    return list(map(str, ["--model", base / "model", *texts, *prompt, *more]))


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["lmntk", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        errors = capsys.readouterr().err
        assert ended.value.code == 2, errors
        lines = [line for line in errors.splitlines() if line.startswith("lmntk: ")]
        assert len(lines) == 1 and "Traceback" not in errors, errors
        return str(lines[0])

    return run


@pytest.mark.parametrize("command", ["run", "plan", "finetune"])
def test_an_empty_folder_is_not_the_one_that_one_is_in(base, tmp_path, monkeypatch, refused, command):
    monkeypatch.chdir(tmp_path)
    assert "out: the path is empty" in refused(command, *flags(base, "--out", ""))
    assert list(tmp_path.iterdir()) == []


PLACES = {
    "below a file": "file/page.html",
    "below no device": "/dev/null/page.html",
    "a name too long": "a" * 300 + ".html",
}


@pytest.mark.parametrize("place", PLACES)
def test_a_page_where_no_file_can_be_is_one_line(tmp_path, monkeypatch, refused, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("a file")
    monkeypatch.setattr("lmntk.reports.page.build_page", lambda runs: "a page")
    assert PLACES[place][:40] in refused("report", str(tmp_path), "--out", PLACES[place])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["pipe", "link"])
def test_a_page_replaces_no_pipe_or_device(tmp_path, monkeypatch, refused, name):
    monkeypatch.setattr("lmntk.reports.page.build_page", lambda runs: "a page")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    assert "a device or a pipe" in refused("report", str(tmp_path), "--out", str(tmp_path / name))
    assert (tmp_path / "pipe").is_fifo() and (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("name", ["configuration.json", "results.csv", "splits", "kernels"])
def test_a_folder_in_a_files_place_and_a_file_in_a_folders(base, tmp_path, refused, name):
    out = tmp_path / "out"
    out.mkdir()
    if "." in name:
        (out / name / "inside").mkdir(parents=True)
    else:
        (out / name).write_text("a file")
    assert name in refused("run", *flags(base, "--out", out, "--formulas", "sgd", "--solvers", "ridge"))
    assert not list(out.rglob("*.partial"))


OF_ANOTHER_KIND = {
    "k": {"k": True},
    "k among numbers": {"k": [16, True]},
    "seeds": {"seeds": False},
    "test_limit": {"test_limit": True},
    "batch_size": {"batch_size": True},
    "steps": {"finetuning": {"steps": True}},
    "learning_rates": {"finetuning": {"learning_rates": {"sgd": [True]}}},
    "lora_rank": {"finetuning": {"lora_rank": 100_000_000_000}, "finetune": ["sgd"]},
    "out": {"out": ""},
    "scratch": {"scratch": "  "},
}


@pytest.mark.parametrize("case", OF_ANOTHER_KIND)
def test_values_of_another_kind_are_refused(case):
    with pytest.raises(UserError, match=case.split()[0]) as caught:
        make_experiment({"model": "m", "data": "d", "tasks": ["sst-2"], "out": "o"} | OF_ANOTHER_KIND[case])
    assert "\n" not in str(caught.value)


def test_a_rank_beyond_every_layer_is_refused():
    with pytest.raises(UserError, match="lora-rank"):
        from_flags(FactorKernels, {"factors": "f", "out": "o", "lora_rank": 100_000_000_000})


FULL = {
    "safetensors": SafetensorError(
        "Error while serializing: I/O error: No space left on device (os error 28)"
    ),
    "tokenizers": Exception("No space left on device (os error 28)"),
    "the system": OSError(errno.ENOSPC, "No space left on device"),
    "torch": RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"),
}


@pytest.mark.parametrize("library", FULL)
def test_what_libraries_say_of_a_full_disk_is_an_error_of_the_system(library):
    with pytest.raises(OSError, match=r"No space|Input/output"), reporting_disk():
        raise FULL[library]
    with pytest.raises(RuntimeError, match="another"), reporting_disk():
        raise RuntimeError("another")


@pytest.mark.parametrize(
    "target", ["safetensors.torch.save_file", "transformers.PreTrainedModel.save_pretrained"]
)
def test_a_full_disk_when_weights_are_saved_is_one_line(base, tmp_path, monkeypatch, refused, target):
    def full(*arguments: Any, **named: Any) -> None:
        raise FULL["safetensors"]

    monkeypatch.setattr(target, full)
    how = ["--optimizers", "sgd", "--learning-rates", "0.1", "--batch-sizes", "2", "--steps", "1", "--save"]
    assert "the disk is full" in refused("finetune", *flags(base, "--out", tmp_path / "out", *how))
    assert not [path for path in tmp_path.rglob("*") if "partial" in path.name]
    assert not list((tmp_path / "out" / "finetuning").glob("*.json"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="no limit of a file's size")
def test_files_that_cannot_grow_are_one_line(base, tmp_path):
    """The system itself refuses: no file beyond 20 kB."""
    import resource

    how = ["--optimizers", "sgd", "--learning-rates", "0.1", "--batch-sizes", "2", "--steps", "1", "--save"]
    command = [sys.executable, "-m", "lmntk", "finetune", *flags(base, "--out", tmp_path / "out", *how)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )  # fmt: skip
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "too large" in done.stderr
    assert not [path for path in (tmp_path / "out").rglob("*") if "partial" in path.name]


TENSORS = {
    "sparse": torch.eye(4).to_sparse(),
    "meta": torch.zeros(2, 1, 2, 1, device="meta"),
    "quantised": torch.quantize_per_tensor(torch.ones(2, 1, 2, 1), 0.1, 0, torch.qint8),
    "complex": torch.ones(2, 1, 2, 1, dtype=torch.complex64),
    "empty": torch.zeros(0, 1, 0, 1),
    "not all finite": torch.full((2, 1, 2, 1), float("nan")),
}


@pytest.mark.parametrize("kind", TENSORS)
@pytest.mark.parametrize("place", ["kernels", "labels"])
def test_tensors_without_plain_numbers_are_one_line(tmp_path, kind, place):
    good = torch.eye(2)[:, None, :, None], torch.tensor([0, 1])
    pair = (TENSORS[kind], good[1]) if place == "kernels" else (good[0], TENSORS[kind])
    for side in ("train", "dev", "test"):
        torch.save(pair if side == "dev" else good, tmp_path / f"{side}_kernels_SST-2.pt")
    with pytest.raises(UserError, match=kind) as caught:
        published(tmp_path, "SST-2", metric="accuracy")
    assert "\n" not in str(caught.value)


def test_a_parameter_with_a_gradient_is_read(tmp_path):
    values = torch.nn.Parameter(torch.eye(2)[:, None, :, None])
    for side in ("train", "dev", "test"):
        torch.save((values, torch.tensor([0, 1])), tmp_path / f"{side}_kernels_SST-2.pt")
    assert published(tmp_path, "SST-2", metric="accuracy").formulas == ("sgd",)


@pytest.mark.parametrize("kind", [torch.complex64, torch.bfloat16, torch.int64, torch.float32])
def test_a_kernels_file_of_other_numbers_is_damaged(tmp_path, kind):
    from lmntk.kernels.kernel import FORMAT, Kernel

    tensors = {"values": torch.ones(2, 1, 2, 1).to(kind)}
    kept.save_tensors(
        tmp_path / "k.safetensors", tensors, {"format": FORMAT, "formula": "sgd", "provenance": "{}"}
    )
    with pytest.raises(kept.DamagedError) as caught:
        Kernel.load(tmp_path / "k.safetensors")
    assert "\n" not in str(caught.value)


def test_labels_are_no_html_in_the_summary():
    row = {
        "task": "<i>t</i>",
        "k": 1,
        "seed": 1,
        "mode": "prompt",
        "method": "m",
        "metric": "accuracy",
        "test": 0.5,
        "notes": ["<u>|"],
    }
    page = summary_markdown(
        [row], {}, {"classes": "0 = <img src=x onerror=alert(1)>; 1 = a|b\n# c"}, ["<b>so</b>"]
    )
    assert "<" not in page and "&lt;img" in page
    assert "\n# c" not in page


@pytest.mark.parametrize(
    "error", [Exception("The current node timed out during startup"), SystemExit(1), RuntimeError("no")]
)
def test_ray_whose_processes_are_killed_at_start_is_one_line(monkeypatch, error):
    ended: list[bool] = []

    def init(**named: Any) -> None:
        raise error

    fake = SimpleNamespace(
        is_initialized=lambda: False, init=init, shutdown=lambda: ended.append(True), exceptions=SimpleNamespace(RayError=ArithmeticError),
    )  # fmt: skip
    monkeypatch.setattr(ray_cluster, "_ray", lambda: fake)
    executor = next(each for each in vars(ray_cluster).values() if hasattr(each, "_connected"))(workers=1)
    with pytest.raises(UserError, match="Ray does not start here"), executor._connected(fake):
        pass
    assert ended == [True]
