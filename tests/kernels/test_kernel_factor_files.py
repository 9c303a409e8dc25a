"""Factors on disk: what is read is what was written, or an error."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from model_oracle import pad_id, random_texts
from model_table import TABLE

from lmntk.engine.factor_files import open_tangents, save_tangents
from lmntk.engine.stream import whole
from lmntk.kernels.gram import Panel, gram
from lmntk.prompts.batching import collate
from lmntk.system.kept import DamagedError
from lmntk.system.memory import resident
from lmntk.tangents.capture import capture
from lmntk.tangents.coverage import check_coverage
from lmntk.tangents.factors import DenseFactors, Tangents
from lmntk.tangents.noise import noise_coordinates, silence


def tangents_of(name, lengths=(5, 4, 6)):
    row = TABLE[name]
    model = row.model(2)
    parameters = row.parameters.select(model)
    batch = collate(random_texts(row, list(lengths), 1), pad_id(model))
    return capture(model, batch, parameters, check_coverage(model, batch, parameters).fallback)


@pytest.mark.parametrize(
    "name", ["bert", "albert", "gpt2", "deberta-shared-keys", "mixtral", "t5", "llama-dora", "bert-head-mode"]
)
def test_round_trip(tmp_path, name):
    tangents = tangents_of(name)
    save_tangents(tmp_path / "f.safetensors", tangents)
    size = (tmp_path / "f.safetensors").stat().st_size
    assert [path.name for path in tmp_path.iterdir()] == ["f.safetensors"]
    assert size < 1.5 * tangents.nbytes + 100_000
    found = open_tangents(tmp_path / "f.safetensors")
    assert torch.equal(found.logits, tangents.logits)
    assert list(found.factors) == list(tangents.factors)
    for key, factors in tangents.factors.items():
        stored = found.factors[key]
        assert type(stored) is type(factors)
        for one, other in zip(factors.tensors(), stored.tensors(), strict=True):
            assert torch.equal(one, other)
    masks = noise_coordinates([tangents])
    assert {k: v.tolist() for k, v in noise_coordinates([found]).items()} == {
        k: v.tolist() for k, v in masks.items()
    }
    expected = gram(Panel([silence(tangents, masks)]), Panel([tangents]), ["sgd", "asigngd"])
    stored_panel = gram(Panel([silence(found, masks)]), Panel([found]), ["sgd", "asigngd"])
    for formula in ("sgd", "asigngd"):
        torch.testing.assert_close(
            whole(stored_panel[formula]), whole(expected[formula]), rtol=1e-12, atol=1e-12
        )


def test_shared_inputs_are_written_once(tmp_path):
    tangents = tangents_of("bert", (6, 6, 6))
    save_tangents(tmp_path / "f", tangents)
    assert (tmp_path / "f").stat().st_size < 1.1 * tangents.nbytes + 50_000


@pytest.mark.parametrize("damage", ["cut", "bit", "header", "empty", "other", "missing"])
def test_damage_is_noticed(tmp_path, damage):
    path = tmp_path / "f.safetensors"
    save_tangents(path, tangents_of("bert"))
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[:-10]
    elif damage == "bit":
        content[-1000] ^= 4
    elif damage == "header":
        place = content.index(b"transposed")
        content[place] ^= 1
    elif damage == "empty":
        content = bytearray()
    elif damage == "other":
        content = bytearray(b'{"a": 1}' * 100)
    path.write_bytes(bytes(content))
    if damage == "missing":
        path.unlink()
    with pytest.raises(FileNotFoundError if damage == "missing" else DamagedError):
        open_tangents(path)


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="the system does not say what the process holds"
)
def test_comparing_the_checksum_leaves_nothing_in_memory(tmp_path):
    """What is read of a file keeps its mapping; the pages that the checksum went through must not stay with it."""
    large = DenseFactors(torch.ones(1, 2, 2**23))
    save_tangents(
        tmp_path / "f.safetensors",
        Tangents(torch.zeros(2, 1), {"large": large, "small": DenseFactors(torch.ones(1, 2, 3))}),
    )
    stored = open_tangents(tmp_path / "f.safetensors", verify=False).factors
    before = resident()
    kept = stored["small"]
    assert torch.equal(kept.values, torch.ones(1, 2, 3))
    assert resident() - before < large.values.nbytes / 2
