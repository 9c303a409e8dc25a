"""``lmntk solve``: a run's kernels give the run's own numbers, and so do they in the files of the paper's code."""

from __future__ import annotations

import json
import shutil
import zipfile

import pytest
import torch
from kept import kept_at
from tiny import BASELINES, films, write_model
from typer.testing import CliRunner

from lmntk.cli.app import app
from lmntk.errors import UserError
from lmntk.experiment.configuration import make_experiment
from lmntk.experiment.run import run
from lmntk.experiment.solve_folder import SIDES, read_folder, solve_folder
from lmntk.system.kept import read_record, write_record

CELL = "films-k4-seed13-prompt"
SAME = ("method", "formula", "solver", "metric", "dev", "test", "setting")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run's folder and its rows."""
    base = tmp_path_factory.mktemp("solve")
    own = films(base, 40, 12)  # fmt: skip
    values = {
        "model": str(write_model(base / "model")),
        "own_tasks": [own],
        "k": [4],
        "seeds": [13, 21],
        "out": base / "out",
    }
    return base / "out", run(make_experiment(values))


def as_published(folder, solvable, formula, task="SST-2"):
    """Writes files as the paper's code does: labels -1 and +1 of one logit, logits with their labels, both orientations in one tensor."""
    folder.mkdir(parents=True, exist_ok=True)
    for side in SIDES:
        kernel = solvable.kernels[side, formula]
        values = torch.from_numpy(kernel.values)
        if formula == "asigngd":
            values = torch.stack([values, torch.from_numpy(kernel.flipped)])
        labels = torch.tensor(solvable.labels[side])[:, None] * 2.0 - 1.0
        torch.save((values, labels), folder / f"{side}_kernels_{task}.pt")
        torch.save(
            (torch.from_numpy(solvable.logits[side]).float(), labels), folder / f"{side}_logits_{task}.pt"
        )
    return folder


def the_same(found, rows):
    return [{name: row[name] for name in SAME} for row in found] == json.loads(
        json.dumps([{name: row[name] for name in SAME} for row in rows])
    )


@pytest.mark.parametrize("inside", ["", "kernels"])
def test_a_runs_kernels_give_the_runs_rows(finished, inside):
    out, rows = finished
    assert the_same(solve_folder(out / inside, "films"), rows)
    one = solve_folder(out, CELL, ["sgd"], ["ridge", "svc"])
    assert [row["method"] for row in one] == [*BASELINES, "sgd ridge", "sgd svc"] and one[0][
        "train_texts"
    ] == 8


@pytest.mark.parametrize("formula", ["sgd", "signgd", "asigngd"])
def test_the_papers_files_give_the_same(finished, tmp_path, formula):
    out, rows = finished
    solvable = read_folder(out, CELL)[0]
    folder = as_published(tmp_path, solvable, formula)
    expected = [row for row in rows if row["seed"] == 13 and row["formula"] in ("", formula)]
    found = solve_folder(folder, "sst-2", None if formula == "asigngd" else [formula])
    assert the_same(found, expected)
    for side in SIDES:
        (folder / f"{side}_logits_SST-2.pt").unlink()
    assert [row["formula"] for row in solve_folder(folder, "sst-2", [formula])] == [
        formula
    ]  # no logits, no zero-shot


def test_several_classes(tmp_path):
    generator = torch.Generator().manual_seed(0)
    features = {side: torch.randn(6, 3, 40, generator=generator, dtype=torch.float64) for side in SIDES}
    for side in SIDES:
        kernel = torch.einsum("ncp,mdp->ncmd", features["train"], features[side])
        torch.save((kernel, torch.arange(6) % 3), tmp_path / f"{side}_kernels_trec.pt")
    (row,) = solve_folder(tmp_path, "trec")
    assert row["method"] == "sgd ridge" and row["test_texts"] == 6


class Strange:
    def __reduce__(self):
        return (print, ("this must never be seen",))


def test_mistakes(finished, tmp_path, capsys):
    out, _ = finished
    solvable = read_folder(out, CELL)[0]

    def refused(words, change, task="sst-2", **more):
        folder = as_published(tmp_path / f"{len(list(tmp_path.iterdir()))}", solvable, "sgd")
        change(folder)
        with pytest.raises(UserError, match=words) as caught:
            solve_folder(folder, task, **more)
        assert "\n" not in str(caught.value)

    # a file of this test's own, in the layout of the paper's authors
    kernel, labels = torch.load(
        as_published(tmp_path / "whole", solvable, "sgd") / "dev_kernels_SST-2.pt", weights_only=True
    )

    def saved(name, content):
        return lambda folder: torch.save(content, folder / name)

    refused("no file test_kernels_sst-2.pt", lambda folder: (folder / "test_kernels_SST-2.pt").unlink())
    refused("it has kernels of SST-2", lambda folder: None, task="mr")
    for side in SIDES:
        words = f"no file {side}_logits_sst-2.pt in .*, and other sides have one; give all three or none"
        refused(words, lambda folder, side=side: (folder / f"{side}_logits_SST-2.pt").unlink())
    refused("holds more than tensors", saved("dev_kernels_SST-2.pt", (kernel, Strange())))
    refused("is not a tuple of two", saved("dev_kernels_SST-2.pt", kernel))
    refused("shape .* is not a kernel", saved("dev_kernels_SST-2.pt", (kernel[0], labels)))
    refused("does not fit", saved("dev_kernels_SST-2.pt", (kernel[1:], labels)))
    refused("labels in .* are no class numbers", saved("dev_kernels_SST-2.pt", (kernel, labels[1:])))
    refused("and .* asks for", saved("dev_logits_SST-2.pt", (labels.expand(-1, 3), labels)))
    refused("cannot read", lambda folder: (folder / "dev_kernels_SST-2.pt").write_bytes(b"broken"))
    whole = (tmp_path / "whole" / "dev_kernels_SST-2.pt").read_bytes()
    refused(
        "cannot read", lambda folder: (folder / "dev_kernels_SST-2.pt").write_bytes(whole[: len(whole) // 2])
    )
    refused("say which one", lambda folder: None, formulas=["sgd", "signgd"])
    refused("no asigngd kernels", lambda folder: None, formulas=["asigngd"])
    with pytest.raises(UserError, match="no split of 'mr'"):
        solve_folder(out, "mr")
    with pytest.raises(UserError, match="no folder"):
        solve_folder(tmp_path / "nowhere", "mr")
    for side in SIDES:
        for kind in ("kernels", "logits"):
            (tmp_path / "whole" / f"{side}_{kind}_SST-2.pt").rename(
                tmp_path / "whole" / f"{side}_{kind}_mine.pt"
            )
    with pytest.raises(UserError, match="not one of the 14"):
        solve_folder(tmp_path / "whole", "mine")
    assert solve_folder(tmp_path / "whole", "mine", metric="f1")[0]["metric"] == "f1"
    assert "this must never be seen" not in capsys.readouterr().out
    assert zipfile.is_zipfile(tmp_path / "whole" / "dev_kernels_mine.pt")


def test_kernels_of_other_texts_than_the_results_are_refused(finished, tmp_path):
    """A run over other texts that was cut short between a split's kernels and its results."""
    out = tmp_path / "out"
    shutil.copytree(finished[0], out)
    path = kept_at(out / "splits" / f"{CELL}.json")
    write_record(path, read_record(path) | {"kernels": "of other texts"})
    with pytest.raises(
        UserError, match=f"those of {CELL} in .* come from other texts, weights or settings than its results"
    ):
        solve_folder(out, "films")


@pytest.mark.parametrize("in_its_place", ["nothing", "a folder"])
def test_a_formula_is_not_dropped_without_a_word(finished, tmp_path, in_its_place):
    out = shutil.copytree(finished[0], tmp_path / "out")
    (folder,) = (out / "kernels").glob(f"{CELL}-????????")
    path = folder / "dev-signgd.safetensors"
    path.unlink()
    if in_its_place == "a folder":
        path.mkdir()
    for formulas in (None, ["sgd", "signgd"]):
        with pytest.raises(UserError, match=path.name):
            solve_folder(out, CELL, formulas)
    assert [row["method"] for row in solve_folder(out, CELL, ["sgd"], ["ridge"])] == [*BASELINES, "sgd ridge"]


def test_the_command_prints_a_table(finished):
    out, _ = finished
    said = (
        CliRunner()
        .invoke(
            app, ["solve", "--kernels", str(out), "--task", CELL, "--formulas", "sgd"], catch_exceptions=False
        )
        .stdout
    )
    assert said.startswith("| split | method |") and f"| {CELL} | sgd ridge | accuracy |" in said
    rows = json.loads(
        CliRunner()
        .invoke(app, ["solve", "--kernels", str(out), "--task", "films", "--json"], catch_exceptions=False)
        .stdout
    )
    assert len(rows) == 2 * (3 + 3)
    for flag, value, words in (
        ("--formulas", "ntk", "'ntk' is not one of"),
        ("--solvers", "x", "'x' is not"),
        ("--metric", "x", "neither"),
    ):
        with pytest.raises(UserError, match=words):
            CliRunner().invoke(
                app, ["solve", "--kernels", str(out), "--task", "films", flag, value], catch_exceptions=False
            )


def test_a_damaged_cell_is_named(tmp_path):
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "films.json").write_text("{")
    with pytest.raises(UserError, match=r"no finished split; damaged: films\.json"):
        solve_folder(tmp_path, "films")
