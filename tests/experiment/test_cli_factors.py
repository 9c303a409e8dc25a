"""Kernels once more from kept factors, by the command line."""

from __future__ import annotations

import json

import pytest
import torch
from command_runs import assert_mistake, kernel_flags, lmntk, write_inputs
from safetensors.torch import load_file


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("cli"))


def test_kernels_once_more_from_kept_factors(folder, tmp_path):
    first = lmntk("kernel", *kernel_flags(folder, out=tmp_path / "a"), "--keep-factors")
    assert first.returncode == 0, first.stderr
    scratch = tmp_path / "a" / "scratch"
    assert "keep-factors" not in first.stderr
    late = lmntk("kernel", *kernel_flags(folder, out=tmp_path / "a"), "--keep-factors")
    assert (
        "keep-factors: none were kept, because the kernels are there already; name a new folder with --out"
        in " ".join(late.stderr.split())
    )
    again = lmntk("kernel", "--factors", scratch, "--out", tmp_path / "b")
    assert again.returncode == 0, again.stderr
    for formula in ("sgd", "signgd", "asigngd"):
        one, other = (load_file(tmp_path / name / f"{formula}.safetensors") for name in "ab")
        torch.testing.assert_close(one["values"], other["values"], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(
        load_file(tmp_path / "a" / "logits.safetensors"), load_file(tmp_path / "b" / "logits.safetensors")
    )
    low = lmntk(
        "kernel",
        "--factors",
        scratch,
        "--formulas",
        "sgd",
        "--lora-rank",
        "4",
        "--out",
        tmp_path / "c",
        "--json",
    )
    assert json.loads(low.stdout)["provenance"]["parameters"]["lora_rank"] == 4
    several = lmntk(
        "kernel", "--factors", scratch, "--formulas", "sgd", "--lora-rank", "2,4", "--targets", "query+value,all-linear",
        "--out", tmp_path / "e", "--groups",
    )  # fmt: skip
    assert several.returncode == 0, several.stderr
    for target, rank in (("query+value", 2), ("all-linear", 4)):
        file = load_file(tmp_path / "e" / f"{target}-r{rank}" / "sgd.safetensors")
        parts = [values for name, values in file.items() if name.startswith("group.")]
        torch.testing.assert_close(sum(parts), file["values"], rtol=1e-12, atol=1e-12)
        assert (tmp_path / "e" / f"{target}-r{rank}" / "logits.safetensors").is_file()
    for wrong, message in (
        (["--lora-rank", "2", "--targets", "norms"], "targets: 'norms' takes no linear map for LoRA here"),
        (["--targets", "queries"], "targets: no 'queries' is known"),
        (["--lora-rank", "5000"], "rank: 5000 is more than"),
        (["--lora-rank", "0"], "lora-rank"),
    ):
        assert_mistake(lmntk("kernel", "--factors", scratch, *wrong, "--out", tmp_path / "f"), message)
    kept = ["kernel", "--factors", scratch]
    assert_mistake(
        lmntk(*kept, "--model", folder / "model", "--out", tmp_path / "d"),
        "--model: kept factors have their own setting",
    )
    for ignored in (["--without-embeddings"], ["--dtype", "float64"], ["--memory", "1GiB"], ["--all-logits"]):
        assert_mistake(
            lmntk(*kept, *ignored, "--out", tmp_path / "d"),
            f"{ignored[0]}: kept factors have their own setting; leave it out",
        )
    assert_mistake(lmntk(*kept, "--out", tmp_path / "b"), "is there already; name another folder")
    assert_mistake(
        lmntk(*kept, "--pair", "a,b", "--out", tmp_path / "d"), "is not there; there are train,eval"
    )
    assert_mistake(
        lmntk("kernel", *kernel_flags(folder, out=tmp_path / "d"), "--lora-rank", "2"),
        "give their folder with --factors",
    )
