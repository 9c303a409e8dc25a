"""Where a cluster's workers are, how many share a machine, and which GPU is whose: without a cluster, and without a GPU."""

from __future__ import annotations

import pickle
from unittest.mock import patch

import pytest
import torch
from torch import nn

from lmntk.engine import tile_maker
from lmntk.engine.kernel_work import KernelWork
from lmntk.engine.tile_maker import TileMaker
from lmntk.errors import UserError
from lmntk.system.executors.ray_layout import Layout, Machine, laid_out, machines_of, own_gpu


@pytest.mark.parametrize(
    ("machines", "workers", "threads", "takes_gpus", "found"),
    [
        ([Machine(2)], None, None, False, Layout(2, 1, 2)),
        ([Machine(8)], 2, 1, False, Layout(2, 1, 2)),
        ([Machine(8), Machine(4)], 6, 2, False, Layout(6, 2, 4)),  # four on the larger one, at most
        (
            [Machine(8, 2), Machine(8, 2)],
            None,
            None,
            False,
            Layout(2, 8, 1),
        ),  # GPUs that nobody asked for change nothing
        ([Machine(8, 2), Machine(8, 2)], None, None, True, Layout(4, 4, 2)),
        ([Machine(8, 2), Machine(8)], None, 2, True, Layout(2, 2, 2)),
        ([Machine(4)] * 10, None, None, False, Layout(10, 4, 1)),  # a worker is on one machine
    ],
)
def test_workers_and_how_many_are_together(machines, workers, threads, takes_gpus, found):
    assert laid_out(machines, workers, threads, takes_gpus) == found


def test_a_cluster_that_has_not_what_is_asked_for():
    with pytest.raises(
        UserError,
        match=r"^threads: 8 for a worker, and no machine of the cluster has more than 4 processors; give fewer$",
    ):
        laid_out([Machine(4), Machine(4)], 1, 8, False)
    with pytest.raises(UserError, match=r"^device: the cluster has no GPU; .*--device cpu$"):
        laid_out([Machine(4)], None, None, True)


def test_machines_that_are_up_and_lend_processors():
    nodes = [
        {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0, "memory": 9.0}},
        {"Alive": False, "Resources": {"CPU": 8.0}},
        {"Alive": True, "Resources": {"memory": 9.0}},
    ]
    assert machines_of(nodes) == [Machine(4, 1)]


def test_a_worker_takes_the_gpu_that_ray_gave_it():
    assert own_gpu([1], "1") == "cuda:0"  # as Ray does it: the process sees that GPU alone
    assert own_gpu(["3"], "2,3") == "cuda:1"  # Ray was told to leave the variable alone
    assert own_gpu([2], None) == "cuda:2"
    assert own_gpu(["GPU-5a"], "GPU-4b, GPU-5a") == "cuda:1"
    with pytest.raises(UserError, match=r"^device: Ray gave a worker no GPU; give --device cpu"):
        own_gpu([], "0")
    with pytest.raises(
        UserError,
        match=r"^device: Ray gave a worker the GPU 4, and it has CUDA_VISIBLE_DEVICES=0,1; leave that to Ray",
    ):
        own_gpu([4], "0,1")


def test_a_model_travels_without_its_device():
    model = nn.Sequential(nn.Linear(2, 2))
    maker = TileMaker(KernelWork(model, {}, [], [], {"one": model[0].weight}, 0), None, None, None, False)
    maker._has_worker = True
    with patch.object(tile_maker, "HOST", torch.device("meta")):  # the model is not there
        state = maker.__getstate__()
    assert state["work"].model[0].weight.is_meta
    assert state["work"].trainable["one"] is state["work"].model[0].weight
    assert not state["_has_worker"]
    assert maker.__getstate__()["work"].model is model
    # what was pickled a moment ago, as Ray does
    assert torch.equal(pickle.loads(pickle.dumps(maker)).work.model[0].weight, model[0].weight)
