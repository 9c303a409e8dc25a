"""Kernels on disk: whole, of what they say, or a one-line error."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.torch
import torch

from lmntk.errors import UserError
from lmntk.kernels.groups import group_of_layer
from lmntk.kernels.kernel import Kernel
from lmntk.system.kept import load_tensors, save_tensors

VALUES = np.arange(24, dtype=np.float64).reshape(2, 2, 3, 2)
PROVENANCE = {"model": "abc", "prompt": "{a} It was {mask}.", "label_words": ["bad", "good"]}


def one_line(caught):
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("flipped", [None, VALUES * 2])
@pytest.mark.parametrize("groups", [{}, {"layer.00": VALUES / 4, "head": VALUES * 3 / 4}])
def test_round_trip(tmp_path, flipped, groups):
    path = tmp_path / "deep" / "asigngd.safetensors"
    kernel = Kernel("asigngd", VALUES, flipped, groups, PROVENANCE)
    kernel.save(path)
    found = Kernel.load(path, {"model": "abc"})
    assert found.formula == "asigngd"
    assert found.provenance == PROVENANCE
    assert np.array_equal(found.values, VALUES)
    assert found.values.dtype == np.float64
    assert (found.flipped is None) if flipped is None else np.array_equal(found.flipped, flipped)
    assert set(found.groups) == set(groups)
    assert all(np.array_equal(found.groups[name], part) for name, part in groups.items())
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_view_that_is_not_contiguous_is_saved_as_it_looks(tmp_path):
    view = VALUES.transpose(2, 3, 0, 1)
    Kernel("sgd", view).save(tmp_path / "k.safetensors")
    assert np.array_equal(Kernel.load(tmp_path / "k.safetensors").values, view)


def test_a_kernel_of_another_model_is_refused(tmp_path):
    path = tmp_path / "k.safetensors"
    Kernel("sgd", VALUES, provenance=PROVENANCE).save(path)
    with pytest.raises(UserError, match="another model") as caught:
        Kernel.load(path, {"model": "0" * 64})
    assert "abc" in one_line(caught)
    with pytest.raises(UserError, match=r"another dtype \(None, not float32\)"):
        Kernel.load(path, {"dtype": "float32"})


@pytest.mark.parametrize(("length", "shown"), [(24, "x" * 24), (25, f"{'x' * 16}...")])
def test_long_words_of_another_kernel_are_cut(tmp_path, length, shown):
    path = tmp_path / "k.safetensors"
    Kernel("sgd", VALUES, provenance=PROVENANCE).save(path)
    with pytest.raises(UserError, match=rf"another model \(abc, not {shown}\)"):
        Kernel.load(path, {"model": "x" * length})


@pytest.mark.parametrize(
    ("values", "part", "message"),
    [
        (VALUES, VALUES[:1], r"'group.head' is float64 \[1, 2, 3, 2\], not float64 \[2, 2, 3, 2\]"),
        (VALUES, VALUES.astype(np.float32), r"'group.head' is float32 \[2, 2, 3, 2\], not float64"),
        (VALUES.astype(np.float32), VALUES, r"'values' is float32 \[2, 2, 3, 2\], not float64"),
        (VALUES[0], VALUES[0], r"its values have the shape \[2, 3, 2\], and a kernel has \[n, c, m, c\]"),
        (VALUES[:, :1], VALUES[:, :1], r"its values have the shape \[2, 1, 3, 2\]"),
        (VALUES[:0], VALUES[:0], r"its values have the shape \[0, 2, 3, 2\]"),
    ],
)
def test_tensors_that_are_no_kernel(tmp_path, values, part, message):
    path = tmp_path / "k.safetensors"
    Kernel("sgd", VALUES, provenance=PROVENANCE).save(path)
    metadata = load_tensors(path)[1]
    save_tensors(path, {"values": values, "group.head": part}, metadata)
    with pytest.raises(UserError, match=message):
        Kernel.load(path)


def test_a_truncated_file(tmp_path):
    path = tmp_path / "k.safetensors"
    Kernel("sgd", VALUES).save(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(UserError, match="is damaged") as caught:
        Kernel.load(path)
    assert str(path) in one_line(caught)


@pytest.mark.parametrize("content", [b"", b"not a kernel at all", b"\x80\x04" + b"x" * 100])
def test_something_else_than_safetensors(tmp_path, content):
    path = tmp_path / "k.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is damaged") as caught:
        Kernel.load(path)
    one_line(caught)


def test_safetensors_of_something_else(tmp_path):
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({"values": torch.zeros(2)}, path)
    with pytest.raises(UserError, match="not a kernel file of lmntk") as caught:
        Kernel.load(path)
    one_line(caught)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_tensors(tmp_path / "k.safetensors")
    with pytest.raises(UserError, match="no file") as caught:
        Kernel.load(tmp_path / "k.safetensors")
    one_line(caught)


@pytest.mark.parametrize("moment", ["writing", "renaming"])
def test_a_save_that_fails_leaves_the_old_file_and_nothing_partial(tmp_path, monkeypatch, moment):
    path = tmp_path / "k.safetensors"
    Kernel("sgd", VALUES).save(path)
    before = path.read_bytes()
    target = {"writing": "safetensors.torch.save_file", "renaming": "os.replace"}[moment]

    def fail(*arguments, **named):
        if moment == "writing":
            arguments[1].write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(target, fail)
    with pytest.raises(OSError, match="disk full"):
        save_tensors(path, {"values": VALUES * 2}, {})
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("parameter", "group"),
    [
        ("network.bert.encoder.layer.3.attention.self.query.weight", "layer.03"),
        ("network.model.layers.11.attn_norm.weight", "layers.11"),
        ("network.bert.embeddings.word_embeddings.weight", "embeddings"),
        ("network.lm_head.bias", "head"),
        ("head.weight", "head"),
    ],
)
def test_groups_by_layer(parameter, group):
    assert group_of_layer(parameter) == group
