"""The benchmarks run, and what they time agrees. No time is asserted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
MACHINE_FIELDS = {"cpu", "cores", "threads", "torch", "load_at_start"}


def run(script, *flags):
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *flags],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def figures_of(script, tmp_path, *flags):
    path = tmp_path / "figures.json"
    done = run(script, "--quick", "--threads", "1", "--json", str(path), *flags)
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text()), done.stdout


@pytest.mark.slow
def test_pairwise_agrees_and_says_what_it_extrapolates(tmp_path):
    figures, shown = figures_of("pairwise.py", tmp_path, "--pairs", "5", "--repeats", "1")
    assert set(figures["machine"]) == MACHINE_FIELDS
    assert figures["machine"]["threads"] == 1
    assert set(figures["lmntk"]) == {"default", "2GiB"}
    for part in figures["lmntk"].values():
        assert part["relative_difference"] < 1e-4
        assert 0 < part["rss_after_imports"] <= part["rss_with_model"] <= part["peak_rss"]
        assert {"seconds", "all_seconds", "memory", "ratio"} <= set(part)
    pairwise = figures["pairwise"]
    assert len(pairwise["sampled_pairs"]) == len(pairwise["pair_seconds"]) == len(pairwise["values"]) == 5
    assert pairwise["extrapolated"] is True
    assert figures["relative_difference"] < 1e-4
    assert "Extrapolated from 5 sampled pairs to all 24" in shown


@pytest.mark.slow
def test_pairwise_fails_when_the_results_differ(tmp_path):
    done = run("pairwise.py", "--quick", "--pairs", "2", "--repeats", "1", "--tolerance", "1e-15")
    assert done.returncode == 1
    assert "FAILED: the results differ" in done.stderr


def test_subspaces_are_timed_beside_plain_kernels(tmp_path):
    figures, shown = figures_of("subspace_kernels.py", tmp_path, "--formulas", "sgd", "signgd")
    assert set(figures["machine"]) == MACHINE_FIELDS
    assert [(way["layers"], way["formula"], way["tokens"]) for way in figures["ways"]] == [
        ("384 wide", "sgd", 8),
        ("384 wide", "signgd", 8),
    ]
    for way in figures["ways"]:
        assert way["ranks"] == [1, 2, 4, 8, 16, 64] and way["seeds"] == 5
        assert 0 < way["ratio_to_sgd_from_texts"] < way["ratio_to_sgd"]
    assert "30 of LoRA ms" in shown


def test_contraction_ways_agree(tmp_path):
    figures, shown = figures_of("contraction.py", tmp_path, "--tiles", "0.01", "1")
    assert set(figures["machine"]) == MACHINE_FIELDS
    assert [(way["tokens"], way["outputs"]) for way in figures["ways"]] == [
        (1, 16),
        (8, 16),
        (1, 64),
        (8, 64),
    ]
    for way in figures["ways"]:
        assert {"inner_ms", "materialise_ms", "lost"} <= set(way)
        assert way["picked"] in ("inner", "materialise")
        assert way["right"] == (way["picked"] == way["faster"])
    assert [tile["tile_mib"] for tile in figures["tiles"]] == [0.01, 1.0]
    assert figures["relative_difference"] < 1e-4
    assert "materialise ms" in shown


@pytest.mark.slow
def test_models_agree_and_say_what_goes_by_autograd(tmp_path):
    figures, shown = figures_of(
        "models.py", tmp_path, "--families", "bert,mixtral,llama-lora", "--repeats", "2"
    )
    assert set(figures["machine"]) == MACHINE_FIELDS
    assert list(figures["families"]) == ["bert", "mixtral", "llama-lora"]
    for family in figures["families"].values():
        assert family["relative_difference"] < 1e-4
        assert len(family["plain"]["all_seconds"]) == len(family["lmntk"]["all_seconds"]) == 2
        assert family["ratio"] == pytest.approx(family["lmntk"]["seconds"] / family["plain"]["seconds"])
        assert 0 < family["ratio_without_check"] < family["ratio"]
        assert family["above"] == (family["ratio"] > figures["claim"])
        assert set(family["lmntk"]["parts"]) == {"check", "capture", "gram"}
        assert all(time > 0 for time in family["lmntk"]["parts"].values())
    assert figures["above"] == [name for name, family in figures["families"].items() if family["above"]]
    assert figures["families"]["llama-lora"]["parameters"] < figures["families"]["bert"]["parameters"]
    for name, family in figures[
        "families"
    ].items():  # what no rule covers is named, whatever the rules cover today
        assert (f"{name}: {family['coverage']}" in shown) == bool(family["fallback"] or not family["batched"])


def test_models_refuses_an_unknown_family():
    done = run("models.py", "--families", "bert,bird")
    assert done.returncode == 2
    assert "no family bird; there are bert, roberta" in done.stderr


@pytest.mark.slow
def test_models_fails_when_the_results_differ():
    done = run(
        "models.py", "--quick", "--threads", "1", "--families", "t5", "--repeats", "1", "--tolerance", "1e-15"
    )
    assert done.returncode == 1
    assert "FAILED: t5 differ from plain autograd" in done.stderr


SCRIPTS = ["pairwise.py", "contraction.py", "models.py", "include.py", "peers.py"]
SCRIPTS += [
    "prompts_study.py",
    "prompts_plots.py",
    "subspace_arms.py",
    "fit.py",
    "heads.py",
    "shared_kernel.py",
    "smollm2_run.py",
    "lds.py",
]
SCRIPTS += ["suspects.py"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_shows_an_example(script):
    done = run(script, "--help")
    assert done.returncode == 0
    assert f"python benchmarks/{script}" in done.stdout


def test_gpu_runs_without_one(tmp_path):
    figures, shown = figures_of("gpu.py", tmp_path, "--device", "cpu,cpu", "--formulas", "sgd,signgd")
    assert (figures["gpus"], figures["rows"], figures["columns"]) == ([], 8, 24)
    assert list(figures["precisions"]) == ["float32", "bfloat16"]
    exact, lower = figures["precisions"].values()
    assert exact["said"] is None
    assert set(exact["kernels"].values()) == {0.0}
    assert all(1e-4 < error < 0.5 for kind in ("kernels", "coefficients") for error in lower[kind].values())
    assert lower["said"]["texts"] == 8
    assert "no GPU: the processor; 8 x 24 texts" in shown


def test_gpu_refuses_what_a_processor_does_not_have():
    done = run("gpu.py", "--quick", "--device", "cpu", "--precisions", "tf32")
    assert done.returncode == 2
    assert "tf32 needs a GPU" in done.stderr


@pytest.mark.slow
def test_the_start_up_checks_are_timed(tmp_path):
    figures, shown = figures_of("start_up.py", tmp_path)
    assert set(figures) == {"machine", "gradients_alone", "all_checks", "run", "share"}
    assert "all checks" in shown and "a kernel entry to" in shown


@pytest.mark.slow
def test_fewer_layers_cost_fewer_passes(tmp_path):
    figures, shown = figures_of("include.py", tmp_path, "--repeats", "1")
    counted = [choice["counted"] for choice in figures["choices"].values()]
    assert list(figures["choices"]) == ["all layers", "top half", "last block"]
    assert counted == pytest.approx([2.0, 1.5, 13 / 12], abs=0.01)
    assert "last block" in shown and "counted" in shown


@pytest.mark.slow
def test_lmntk_is_timed_without_its_peers_and_a_second_run_computes_nothing(tmp_path):
    flags = ["--models", "roberta", "--train", "2", "--evaluation", "3", "--layers", "1", "--repeats", "1"]
    first, second = (run("peers.py", *flags, "--threads", "1", "--out", str(tmp_path)) for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr
    assert "roberta, lmntk sgd: " in first.stdout
    assert "roberta, lmntk sgd: " not in second.stdout
    assert first.stdout.splitlines()[-4:] == second.stdout.splitlines()[-4:]
