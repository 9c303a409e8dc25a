"""A tile and the tensors that stand for it in a file, whose names are those of 0.1.0."""

from __future__ import annotations

import torch

from lmntk.engine.tiles import Job, Tile
from lmntk.engine.work_folder import WorkFolder

TILE = Tile(
    {
        ("a/train", "sgd", "all"): torch.ones(2, 1, 3, 1),
        ("a/train", "asigngd_flipped", "layer 1"): torch.zeros(2, 1, 3, 1),
        ("logits", "signgd", "noise"): torch.full((1, 1, 3, 1), 2.0),
    },
    torch.tensor([[1.0], [2.0], [3.0]]),
    {"a/train": torch.zeros(2, 1), "logits": torch.ones(1, 1)},
    {"a/train": 7, "logits": None},
)
NAMES = {
    "logits",
    "a/train\tsgd\tall",
    "a/train\tasigngd_flipped\tlayer 1",
    "a/train\tlogits",
    "a/train\tnoise",
    "logits\tsigngd\tnoise",
    "logits\tlogits",
    "logits\tnoise",
}


def assert_same(tile, other):
    torch.testing.assert_close(dict(tile.kernels), dict(other.kernels), rtol=0, atol=0)
    torch.testing.assert_close(tile.column_logits, other.column_logits, rtol=0, atol=0)
    torch.testing.assert_close(tile.row_logits, other.row_logits, rtol=0, atol=0)
    assert tile.noise == other.noise


def test_a_tile_is_tensors_of_these_names_and_comes_back(tmp_path):
    tensors = TILE.as_tensors()
    assert set(tensors) == NAMES
    assert int(tensors["a/train\tnoise"]) == 7
    assert int(tensors["logits\tnoise"]) == -1
    assert_same(Tile.of_tensors(tensors), TILE)
    work, job = WorkFolder(tmp_path, "k" * 32), Job(("a/train", "logits"), "b/test", 4, 7)
    assert work.tile(job) is None
    work.save_tile(job, TILE)
    assert (work.folder / "tiles" / "b~test-00000004-00000007.safetensors").is_file()
    assert_same(work.tile(job), TILE)


def test_nothing_left_out_is_not_the_same_as_not_counted():
    tile = Tile({}, torch.zeros(1, 1), {}, {"a": 0, "b": None})
    assert Tile.of_tensors(tile.as_tensors()).noise == {"a": 0, "b": None}
