"""Several workers of this process, one a device: the same bits as one, whoever makes what, and errors that end the run."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from gpu_work import assert_same_bits, work
from model_oracle import random_texts
from model_table import TABLE

from lmntk.engine import plan as planning
from lmntk.engine import tile_maker
from lmntk.engine.schedule import Schedule
from lmntk.errors import ModelError, UserError
from lmntk.system.devices import chosen_devices, copy_to
from lmntk.system.executors.choose import chosen_executor
from lmntk.system.executors.local import Local
from lmntk.system.executors.ray_cluster import RayCluster
from lmntk.system.executors.threads import Devices

CPU = torch.device("cpu")
TWO = Devices((CPU, CPU))
FAMILIES = ["bert", "gpt2", "t5", "mixtral", "deberta-shared-keys", "bert-lora-at-start", "albert"]


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("on_disk", [False, True])
def test_the_same_bits_as_one(tmp_path, name, on_disk):
    more = {"keep_factors": True} if on_disk else {}
    one = work(name, scratch=tmp_path / "one" if on_disk else None, **more)
    two = work(name, scratch=tmp_path / "two" if on_disk else None, executor=TWO, **more)
    assert_same_bits(one, two)


def test_both_workers_make_tiles_and_a_run_that_was_cut_short_goes_on(tmp_path, monkeypatch):
    whole = work(batch_size=1)
    made: dict[str, set[str]] = {}
    make = tile_maker.TileWorker.__call__

    def told(self, job):
        made.setdefault(threading.current_thread().name, set()).add(job.name)
        time.sleep(0.02)
        if len(set.union(*made.values())) > 3:
            raise KeyboardInterrupt
        return make(self, job)

    monkeypatch.setattr(planning, "make_schedule", lambda *a, **k: Schedule(1, False, 2, 0, 0))
    monkeypatch.setattr(tile_maker.TileWorker, "__call__", told)
    with pytest.raises(KeyboardInterrupt):
        work(scratch=tmp_path, executor=TWO, batch_size=1)
    assert set(made) == {"lmntk_0", "lmntk_1"}
    assert list(tmp_path.rglob("tiles/*.safetensors"))
    monkeypatch.setattr(tile_maker.TileWorker, "__call__", make)
    again = work(scratch=tmp_path, executor=TWO, batch_size=1)
    for pair, kernels in whole.kernels.items():
        for name, groups in kernels.items():
            torch.testing.assert_close(
                again.kernels[pair][name]["all"],
                groups["all"],
                rtol=1e-5,
                atol=1e-5 * float(groups["all"].abs().max()),
            )


@pytest.mark.parametrize("name", FAMILIES)
def test_a_copy_shares_what_the_model_shares_and_nothing_with_it(name):
    row = TABLE[name]
    model = row.model(2)
    trainable = row.parameters.select(model)
    copied, chosen = copy_to(CPU, model, trainable)
    assert list(chosen) == list(trainable)
    of_copy, of_model = (
        dict(copied.named_parameters(remove_duplicate=False)),
        dict(model.named_parameters(remove_duplicate=False)),
    )
    assert list(of_copy) == list(of_model)
    assert {name: id(p) for name, p in chosen.items()} == {name: id(of_copy[name]) for name in trainable}
    assert len(set(map(id, of_copy.values()))) == len(set(map(id, of_model.values())))
    assert not {p.data_ptr() for p in of_copy.values()} & {p.data_ptr() for p in of_model.values()}
    assert not {b.data_ptr() for b in copied.buffers() if b.numel()} & {
        b.data_ptr() for b in model.buffers() if b.numel()
    }
    assert [p.requires_grad for p in copied.parameters()] == [p.requires_grad for p in model.parameters()]
    from lmntk.prompts.batching import collate

    batch = collate(random_texts(row, [4, 6], 0), 0)
    with torch.no_grad():
        assert torch.equal(copied(batch), model(batch))


class Doing:
    """A worker for each device; job 3 fails."""

    def __init__(self, fails=False):
        self.fails, self.devices, self.done = fails, [], []

    def __call__(self, device):
        self.devices.append(device)

        def do(job):
            time.sleep(0.005)
            if self.fails and job == 3:
                raise ModelError("the gradients are not finite, in first.weight")
            self.done.append((device, job))
            return job * 10

        return do


def test_jobs_are_done_once_each_by_whoever_is_free():
    doing = Doing()
    assert dict(Devices(("first", "second")).run(doing, list(range(9)))) == {
        job: job * 10 for job in range(9)
    }
    assert doing.devices == ["first", "second"]
    assert {device for device, _ in doing.done} == {"first", "second"}
    assert sorted(job for _, job in doing.done) == list(range(9))


def test_fewer_jobs_than_devices_and_none():
    doing = Doing()
    assert list(Devices(("first", "second")).run(doing, ["a"])) == [(0, "a" * 10)]
    assert doing.devices == ["first"]
    assert list(Devices(("first",)).run(doing, [])) == []


def test_an_error_ends_the_run_and_leaves_no_thread():
    doing = Doing(fails=True)
    with pytest.raises(ModelError, match=r"not finite, in first\.weight"):
        list(Devices(("first", "second")).run(doing, list(range(50))))
    assert len(doing.done) < 20
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lmntk_")]


def test_who_stops_listening_stops_the_workers():
    doing = Doing()
    for _ in Devices(("first", "second")).run(doing, list(range(50))):
        break
    assert len(doing.done) < 20


def test_devices_as_they_are_named():
    assert chosen_devices("cpu") == (CPU,)
    assert chosen_devices("cpu, cpu") == (CPU, CPU)
    assert chosen_executor("local", devices=(CPU, CPU)) == TWO
    assert isinstance(chosen_executor("local", devices=(CPU,)), Local)
    assert isinstance(chosen_executor("ray", devices=(CPU,)), RayCluster)
    with pytest.raises(UserError, match="'abacus' is not to be had here"):
        chosen_devices("abacus")
    with pytest.raises(UserError, match=r"'cpu,meta' is of several kinds"):
        chosen_devices("cpu,meta")
    with pytest.raises(UserError, match=r"'meta,meta' names one twice"):
        chosen_devices("meta,meta")
    if not torch.cuda.is_available():
        assert chosen_devices() == (CPU,)
        for name in ("cuda", "cuda:0,cuda:1"):
            with pytest.raises(UserError, match=f"'{name}' is not to be had here"):
                chosen_devices(name)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_work_that_is_told_adds_up(tmp_path, monkeypatch, batch_size):
    """Of two workers that both capture the row texts, and of a run that goes on with some of its tiles: each text and pair once."""
    monkeypatch.setattr(
        planning, "make_schedule", lambda *a, **k: Schedule(batch_size, False, 2, 0, 0, copies=2)
    )
    inside, seen = [], []

    def report(captured, contracted):
        inside.append(captured)
        time.sleep(0.001)
        assert len(inside) == 1  # one thread at a time
        inside.clear()
        seen.append((captured, contracted))

    everything = [8 + 3 + 10, 8 * 8 + 3 * 8 + 8 * 10 + 3 * 10]
    both = threading.Barrier(2, timeout=60)
    take_rows, started = tile_maker.TileWorker.take_rows, set()

    def together(self, names):
        if threading.get_ident() not in started:
            started.add(threading.get_ident())
            both.wait()
        take_rows(self, names)

    with monkeypatch.context() as patched:
        patched.setattr(tile_maker.TileWorker, "take_rows", together)
        work(scratch=tmp_path, executor=TWO, batch_size=batch_size, report=report)
    assert [sum(part) for part in zip(*seen, strict=True)] == everything
    made = sorted(tmp_path.rglob("tiles/*.safetensors"))
    assert len(made) == 1 + 5
    for gone in ([], made[:1], made[1:3], made):
        for tile in gone:
            tile.unlink()
        seen.clear()
        work(scratch=tmp_path, executor=TWO, batch_size=batch_size, report=report)
        assert [sum(part) for part in zip(*seen, strict=True)] == everything


class Closing(Doing):
    """Workers that say when they are closed; the second cannot be made, if so wished."""

    def __init__(self, fails=False, refused=False):
        super().__init__(fails)
        self.refused, self.closed = refused, []

    def __call__(self, device):
        if self.refused and self.devices:
            raise ModelError("no room for a second")
        do = super().__call__(device)
        do.close = lambda: self.closed.append((device, len(self.done)))
        return do


def test_workers_are_closed_when_all_have_ended():
    closing = Closing()
    assert len(list(Devices(("first", "second")).run(closing, list(range(9))))) == 9
    assert closing.closed == [("first", 9), ("second", 9)]


def test_workers_are_closed_after_an_error():
    for closing in (Closing(fails=True), Closing(refused=True)):
        with pytest.raises(ModelError):
            list(Devices(("first", "second")).run(closing, list(range(50))))
        assert [device for device, _ in closing.closed] == closing.devices
    closing = Closing()
    for _ in Devices(("first", "second")).run(closing, list(range(50))):
        break
    assert [device for device, _ in closing.closed] == ["first", "second"]
    assert {done for _, done in closing.closed} == {len(closing.done)}


def test_a_gpu_that_is_named_twice_in_two_ways(monkeypatch):
    """As PyTorch answers where there are two GPUs, of which the first is current."""

    class Answer:
        def __init__(self, size, device):
            self.device = torch.device("cuda", device.index or 0)

    monkeypatch.setattr(torch, "empty", Answer)
    for name in ("cuda,cuda:0", "cuda:0,cuda", "cuda:1, cuda:1"):
        with pytest.raises(UserError, match=f"^device: '{name}' names one twice; name each once$"):
            chosen_devices(name)
    assert chosen_devices("cuda,cuda:1") == (torch.device("cuda:0"), torch.device("cuda:1"))


class Keeping(torch.nn.Module):
    """A module that puts tensors by: plain ones, in lists and in objects, what came of a pass, and one that is shared."""

    class Cache:
        def __init__(self, tensor):
            self.tensor = tensor

    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(3, 3)
        self.scale = torch.full((3,), 2.0)
        self.register_buffer("shift", torch.ones(3))
        self.nested = {
            "masks": [torch.zeros(3), (self.scale, self.shift)],
            "cache": self.Cache(torch.ones(3)),
        }
        self.weights = [self.inner.weight]

    def forward(self, x):
        self.last = self.inner(x) * self.scale + self.nested["cache"].tensor
        return self.last


def test_what_a_module_has_put_by_goes_along():
    model, x = Keeping(), torch.randn(2, 3)
    model(x)
    for device in (torch.device("meta"), CPU):
        copied, _ = copy_to(device, model, {})
        tensors = [
            copied.scale,
            copied.shift,
            copied.last,
            *copied.nested["masks"][:1],
            copied.nested["cache"].tensor,
            copied.inner.weight,
        ]
        assert {tensor.device for tensor in tensors} == {device}
        assert copied.nested["masks"][1][0] is copied.scale
        assert copied.nested["masks"][1][1] is copied.shift
        assert copied.weights[0] is copied.inner.weight
        assert copied(x.to(device)).device == device
    assert torch.equal(copied(x), model(x))
    assert copied.scale.data_ptr() != model.scale.data_ptr()
    model.elsewhere = torch.zeros(3, device="meta")
    assert copy_to(CPU, model, {})[0].elsewhere.device.type == "meta"
