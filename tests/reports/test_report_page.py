"""The page as HTML: whole, self-contained, escaped, without holes, and with the numbers that a hand computes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from html_page import Page
from report_runs import VERSIONS, row, write, write_run

from lmntk.diagnosis.over_splits import task_verdict
from lmntk.errors import UserError
from lmntk.kernels.kernel import Kernel
from lmntk.reports import page as module
from lmntk.reports.page import build_page, write_page

# plots are left undrawn, but where a test is about them
pytestmark = pytest.mark.usefixtures("empty_plots")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("runs") / "fictitious-run"
    return write_run(
        place, tasks=("films", "topics"), ks=(4, 8), seeds=(13, 21), modes=("prompt", "head"), kernels=False
    )


@pytest.fixture(scope="module")
def text(folder):
    return build_page([folder])


def test_the_page_is_well_formed_and_leaves_for_nothing(text, drawn_plots):
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    assert {"script", "link", "iframe", "object", "form"}.isdisjoint(page.tags)
    for reference in page.references:
        assert reference.startswith(("#", "data:image/png;base64,")), reference
        assert not reference.startswith("#") or reference[1:] in page.ids
    assert (
        "http://" not in text
        and "https://" not in text
        and "@import" not in text
        and "@font-face" not in text
    )


def test_every_plot_says_its_numbers_in_words(text):
    page = Page(text)
    assert len(page.svgs) > 20
    described = "".join(page.texts["desc"])
    for svg in page.svgs:
        assert svg["role"] == "img" and len(svg["aria-label"]) > 10
        assert svg["aria-describedby"] in page.ids
    assert len(page.texts["desc"]) == len(page.svgs)
    assert all(re.search(r"\d", one) for one in page.texts["desc"])
    assert "zero-shot, prompt, k = 8: 61.0 (0.0)" in described


def test_colours_follow_the_theme_and_text_stays_text(text):
    assert "prefers-color-scheme: dark" in text and "@media print" in text
    drawn = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert "var(--ink)" in drawn and "#0102" not in drawn and "#000000" not in drawn
    assert "signgd ridge</text>" in drawn


def test_what_comes_first_is_the_verdict(text):
    order = [
        text.index(heading)
        for heading in (
            "behave like its kernel?",
            "<h2>Results",
            "<h2>Regime, forecast and the paper's three tests",
            "<h2>By method",
            "<h2>Close up",
            "<h2>How it",
        )
    ]
    assert order == sorted(order)
    first = unescape(text[order[0] : order[1]])
    assert (
        "8 verdicts: 4 kernel-like, 4 not, 0 undecided." in first
    )  # 2 tasks x 2 modes x 2 methods, at the larger k
    assert "the sgd kernel's mean of" in first and "over 2 splits is 3.3 points above fine-tuning's" in first
    assert "recovers 93.0 % of fine-tuning's mean gain from 40.0 % to" in first
    for heading in (
        "Linearized against real logits", "Kernel before and after fine-tuning", "Spectrum and alignment with the labels",
        "Learning curves", "Real and emulated training", "Along training", "Share of the kernel by parameter group",
    ):  # fmt: skip
        assert f"<h3>{heading}</h3>" in text


def test_table_entries_are_means_and_population_deviations_over_the_splits(tmp_path):
    tests = {13: 0.6, 21: 0.7, 42: 0.95}
    for seed, value in tests.items():
        rows = [
            row("films", 8, seed, "prompt", "zero-shot", 0.5),
            row("films", 8, seed, "prompt", "sgd ridge", value),
        ]
        name = f"films-k8-seed{seed}-prompt"
        write(
            tmp_path / "splits" / f"{name}.json",
            {"key": "x", "split": name, "model": "w", "rows": rows, "versions": VERSIONS},
        )
    text = build_page([tmp_path])
    values = 100 * np.array(list(tests.values()))
    mean, deviation = values.mean(), np.sqrt(((values - values.mean()) ** 2).mean())
    assert (
        f'<td class="number best"><span class="mean">{mean:.1f}</span> <span class="deviation">({deviation:.1f})</span></td>'
        in text
    )
    assert '<td class="number">70.0</td>' in text  # the median
    assert (
        "The kernels reach 75.0 ± 14.7 (sgd ridge); zero-shot 50.0 ± 0.0." in text and "+25.0 points" in text
    )
    assert "How it was made" in text and "Close up" not in text and "three tests" not in text


def test_what_the_user_wrote_is_text_and_never_markup(tmp_path, drawn_plots):
    attack = '<script>alert("x")</script><img src=x onerror=alert(1)>&amp;$\\frac{1}{2}$\x00\x1b'
    folder = write_run(tmp_path / "run", ks=(4,), seeds=(13,), model=attack, extra_methods=(attack,))
    for path in (folder / "splits").glob("*.json"):
        content = json.loads(path.read_text())
        for one in content["rows"]:
            one["task"] = attack
            one["notes"] = [attack]
        write(path, content)
    for path in (folder / "diagnoses").glob("*.json"):
        content = json.loads(path.read_text())
        content |= {"reason": attack, "task": attack}
        content["logits"]["labels"] = [attack if one else "fine" for one in content["logits"]["labels"]]
        content["kernels"]["labels"] = [attack] * len(content["kernels"]["labels"])
        content["groups"] = {attack: 1.0}
        write(path, content)
    for path in (folder / "finetunings").glob("*.json"):
        write(path, json.loads(path.read_text()) | {"task": attack})
    text = build_page([folder])
    page = Page(text)
    assert {"script", "img"}.isdisjoint(page.tags)
    assert "\x00" not in text and "\x1b" not in text
    assert "<script>alert(" in page.text("b", "p", "th", "text", "desc", "td")


def test_a_part_that_is_missing_leaves_no_hole(tmp_path, drawn_plots):
    folder = write_run(tmp_path / "run", ks=(4,), seeds=(13,))
    whole = len(Page(build_page([folder])).svgs)
    path = next((folder / "diagnoses").glob("*sgd*.json"))
    content = json.loads(path.read_text())
    write(
        path,
        content
        | {
            "logits": None,
            "emulation": None,
            "trajectory": [],
            "kernels": {"before": content["kernels"]["before"]},
            "reason": None,
        },
    )
    text = build_page([folder])
    assert len(Page(text).svgs) == whole - 3
    assert "None" not in text and "Left out" not in text
    for part in ("tests", "numbers", "spectrum", "groups", "kernels"):
        content.pop(part)
    write(path, {name: content[name] for name in ("format", "split", "task", "k", "seed", "mode", "method")})
    text = build_page([folder])
    Page(text)
    assert "? undecided" in text and "No reason is given." in text and "cannot be told" in text


def test_a_damaged_part_is_named_and_the_rest_drawn(tmp_path, drawn_plots):
    folder = write_run(tmp_path / "run", ks=(4,), seeds=(13,))
    whole = len(Page(build_page([folder])).svgs)
    path = next((folder / "diagnoses").glob("*sgd*.json"))
    content = json.loads(path.read_text())
    content["logits"]["fine_tuned"] = [[1.0], [1.0, 2.0]]
    write(path, content)
    (folder / "finetunings" / "half-written.json").write_text('{"format": "lmntk fine')
    text = build_page([folder])
    assert len(Page(text).svgs) == whole - 1
    assert "logits of fictitious-k4-seed13-prompt, sgd fine-tuning: not as expected" in text
    assert "finetunings/half-written.json is not a file of this version" in text


def test_numbers_that_are_none_are_left_out(tmp_path, drawn_plots):
    folder = write_run(tmp_path / "run", ks=(4,), seeds=(13,))
    path = next((folder / "diagnoses").glob("*sgd*.json"))
    content = json.loads(path.read_text())
    content["trajectory"][3]["logit_error"] = float("nan")
    content["numbers"]["chi_with_prompt"] = float("inf")
    content["tests"][0] |= {"value": float("nan"), "passed": None}
    write(path, content)
    text = build_page([folder])
    Page(text)
    assert not re.search(r"\bnan\b|\binf\b", text)


def test_kernels_alone_show_their_matrix_spectrum_and_groups(tmp_path, drawn_plots):
    folder = write_run(tmp_path / "run", ks=(8,), seeds=(13,), finetuned=False, classes=3)
    text = build_page([folder])
    kernel = Kernel.load(next((folder / "kernels").glob("*/train-sgd.safetensors")))
    n, c = kernel.values.shape[:2]
    summed = np.einsum("ncmc->nm", kernel.values)
    eigenvalues, vectors = np.linalg.eigh(kernel.values.reshape(n * c, n * c))
    assert "What the kernels reach" in text and "lmntk diagnose" in text
    assert f"the largest has {100 * eigenvalues[-1] / eigenvalues.sum():.0f} % of their sum" in text
    assert "layer.01 40.0 %, layer.00 30.0 %, head 20.0 %" in text
    same = np.repeat(np.arange(3), 8)
    same = (same[:, None] == same) & ~np.eye(24, dtype=bool)
    mean = np.eye(24) - 1 / 24
    assert f"two texts of one class share {(mean @ summed @ mean)[same].mean():.3g} on average" in text
    one_hot = np.eye(3)[np.repeat(np.arange(3), 8)] - 1 / 3
    shares = (vectors.T @ one_hot.ravel())[::-1] ** 2 / (one_hot**2).sum()
    assert f"The first 7 eigenvectors hold {100 * shares[:7].sum():.0f} % of the centred labels" in text


def test_a_kernel_that_is_not_the_cells_or_is_damaged_is_not_drawn(tmp_path, drawn_plots):
    folder = write_run(tmp_path / "run", ks=(8,), seeds=(13,), finetuned=False)
    heading = "Spectrum and alignment with the labels"
    path, split = (
        next((folder / "kernels").glob("*/train-sgd.safetensors")),
        next((folder / "splits").glob("*.json")),
    )
    kernel = Kernel.load(path)
    assert heading in build_page([folder])
    content = json.loads(split.read_text())
    write(split, content | {"kernels": "of these texts"})
    assert heading not in build_page([folder])  # of a run over other texts
    Kernel(kernel.formula, kernel.values, groups=kernel.groups, provenance={"key": "of these texts"}).save(
        path
    )
    assert heading in build_page([folder])
    values = kernel.values.copy()
    values[0, :, 1] *= 3
    Kernel(kernel.formula, values, provenance={"key": "of these texts"}).save(path)
    text = build_page([folder])
    assert "is not drawn: " in text and heading not in text


def test_a_verdict_over_splits_is_that_of_their_means_by_the_rule_of_verdicts_json(tmp_path):
    folder = write_run(tmp_path / "run", ks=(4,), seeds=(13, 21, 42))
    paths = sorted((folder / "diagnoses").glob("*sgd*.json"))
    for path, verdict in zip(
        paths, ("not", "not", "undecided"), strict=True
    ):  # by its means it is kernel-like nevertheless
        write(path, json.loads(path.read_text()) | {"verdict": verdict})
    expected = task_verdict([json.loads(path.read_text()) for path in paths])
    text = unescape(build_page([folder]))
    assert expected.verdict == "kernel-like" and f"kernel-like: {expected.reason}." in text
    assert "over 3 splits" in text and "2 verdicts: 1 kernel-like, 1 not, 0 undecided." in text
    content = json.loads(paths[0].read_text())
    write(paths[0], content | {"numbers": content["numbers"] | {"fine_tuned": None}})  # diverged
    text = unescape(build_page([folder]))
    assert "over 2 splits" in text and "1 of 3 splits are left out" in text
    write(paths[0], content)
    content = json.loads(paths[1].read_text())
    del content["predictions"]
    write(paths[1], content)
    text = build_page([folder])
    assert "diagnoses of fictitious, k = 4, prompt, sgd fine-tuning: not as expected (KeyError" in unescape(
        text
    )


def test_several_runs_stand_side_by_side(tmp_path):
    folder = write_run(
        tmp_path / "one" / "fictitious-run", ks=(8,), seeds=(13, 21), tasks=("films",), finetuned=False
    )
    other = write_run(
        tmp_path / "other" / "fictitious-run", ks=(8,), seeds=(13,), tasks=("films",), finetuned=False
    )
    text = build_page([folder, other])
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    assert "<h1>2 runs</h1>" in text and "other/fictitious-run · prompt" in text
    assert "films · other/fictitious-run" in text
    with pytest.raises(UserError, match="named twice"):
        build_page([folder, folder])


def test_cells_of_other_weights_in_the_folder_are_left_out(tmp_path):
    folder = write_run(tmp_path / "run", ks=(4,), seeds=(13, 21), finetuned=False)
    old = sorted((folder / "splits").glob("*.json"))[0]
    write(old, json.loads(old.read_text()) | {"model": "other weights"})
    os.utime(old, (1, 1))
    text = build_page([folder])
    assert (
        "1 splits in run have other weights" in text
        and "over the splits 21" not in text
        and "Medians" not in text
    )


def test_many_cells_close_up_are_cut_and_the_page_says_so(tmp_path):
    folder = write_run(
        tmp_path / "run", tasks=tuple(f"task{i}" for i in range(12)), ks=(2, 4), seeds=(13,), finetuned=False
    )
    text = build_page([folder])
    assert "16 of 24, tasks in turn" in text
    assert text.count('<details class="close-up"') == 16
    assert all(f"task{i} <span>kernel · k = 4" in text for i in range(12))


def test_without_its_libraries_no_run_fails(folder, monkeypatch):
    monkeypatch.setattr(module, "NEEDED", ("matplotlib", "no_such_library"))
    assert "no_such_library missing; pip install 'lmntk[report]'" in write_page(folder)
    assert not (folder / "report.html").exists()
    with pytest.raises(UserError, match="lmntk\\[report\\]"):
        build_page([folder])


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lmntk", "report", *arguments], capture_output=True, text=True, cwd=cwd
    )


def test_the_command_writes_the_page_and_says_mistakes_in_one_line(tmp_path):
    write_run(tmp_path / "run", ks=(4,), seeds=(13,), finetuned=False)
    done = command("run", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["page"] == "run/report.html"
    assert (tmp_path / "run" / "report.html").read_text().startswith("<!DOCTYPE html>")
    done = command("run", "--out", "elsewhere/page.html", cwd=tmp_path)
    assert (
        done.stdout == "Written to elsewhere/page.html\n" and (tmp_path / "elsewhere" / "page.html").is_file()
    )
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        (("nowhere",), "no folder 'nowhere'"),
        (("empty",), "'empty' holds no finished split"),
        (("run", "--out", "empty"), "'empty' is a folder"),
    ):
        failed = command(*arguments, cwd=tmp_path)
        assert failed.returncode == 2 and message in failed.stderr and failed.stderr.count("\n") == 1
