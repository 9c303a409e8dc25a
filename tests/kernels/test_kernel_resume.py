"""Work that is cut to the memory, and goes on where it was cut short: same bits, nothing damaged believed."""

from __future__ import annotations

import os
import pickle
import shutil
from unittest.mock import patch

import pytest
import torch
from model_oracle import pad_id, plain_logits, random_texts
from model_table import TABLE
from safetensors.torch import load_file

from lmntk.engine import plan as planning
from lmntk.engine import tile_maker
from lmntk.engine.budget import Budget
from lmntk.engine.kernel_phases import KernelSizes
from lmntk.engine.kernel_work import KernelWork
from lmntk.engine.phases import MARGIN, Trial
from lmntk.engine.progress import Listener
from lmntk.engine.schedule import Schedule, make_schedule
from lmntk.engine.settings import Settings
from lmntk.engine.stored_factors import Choice, StoredFactors
from lmntk.engine.stream import stream_kernels
from lmntk.engine.work_folder import WorkFolder
from lmntk.errors import UserError
from lmntk.kernels.lora import LowRank
from lmntk.models.filters import ParameterFilter
from lmntk.prompts.batching import collate
from lmntk.system import kept
from lmntk.system.executors.local import Local
from lmntk.system.memory import peak_of, resident

FORMULAS = ["sgd", "signgd", "asigngd"]
PAIRS = [("a", "a"), ("a", "c"), ("b", "c"), ("b", "b")]
LENGTHS = {"a": [5, 4, 6], "b": [4, 4], "c": [3, 7, 5, 6, 4]}
KEY = "0123456789abcdef0123456789abcdef"


class KilledError(Exception):
    """In place of a kill: nothing catches it."""


def work(
    scratch,
    formulas=FORMULAS,
    on_disk=True,
    chunk=2,
    key=KEY,
    keep=False,
    report=lambda captured, contracted: None,
    pairs=PAIRS,
    executor=None,
):
    row = TABLE["bert"]
    model = row.model(2).float()
    texts = {
        group: random_texts(row, lengths, i)
        for i, (group, lengths) in enumerate({"a": [5, 4, 6], "b": [4, 4], "c": [3, 7, 5, 6, 4]}.items())
    }
    with patch.object(planning, "make_schedule", lambda *a, **k: Schedule(2, on_disk, chunk, 0, 0)):
        settings = Settings(scratch=scratch, keep_factors=keep, executor=executor or Local())
        return stream_kernels(
            KernelWork(model, texts, pairs, formulas, row.parameters.select(model), pad_id(model)),
            settings,
            Listener(report=report),
            key=key,
        )


def values_of(streamed):
    tensors = [streamed.logits[group] for group in sorted(streamed.logits)]
    return tensors + [
        streamed.kernels[pair][name]["all"] for pair in PAIRS for name in sorted(streamed.kernels[pair])
    ]


def same_bits(one, other):
    return one.noise == other.noise and all(
        torch.equal(a, b) for a, b in zip(values_of(one), values_of(other), strict=True)
    )


def steps(on_disk):
    seen = []
    return seen, lambda captured, contracted: seen.append((captured, contracted))


@pytest.mark.parametrize("on_disk", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_cut_short_anywhere_it_ends_in_the_same_bits(tmp_path, on_disk):
    seen, report = steps(on_disk)
    whole = work(tmp_path / "whole", on_disk=on_disk, report=report)
    for moment in range(len(seen)):
        scratch, count = tmp_path / f"at-{moment}", 0

        def killing(captured, contracted, moment=moment):
            nonlocal count
            if count == moment:
                raise KilledError
            count += 1

        with pytest.raises(KilledError):
            work(scratch, on_disk=on_disk, report=killing)
        _, report = steps(on_disk)
        assert same_bits(work(scratch, on_disk=on_disk, report=report), whole)
        shutil.rmtree(scratch)


def test_a_finished_tile_is_not_computed_again(tmp_path):
    work(tmp_path)
    with patch.object(tile_maker.TileWorker, "tile", lambda *a: pytest.fail("computed a tile")):
        work(tmp_path)


def test_row_factors_on_disk_are_not_captured_again(tmp_path):
    work(tmp_path)
    for tile in (tmp_path / KEY[:24] / "tiles").iterdir():
        tile.unlink()
    captured = []
    of_batch = tile_maker.Capturer.of_batch
    with patch.object(
        tile_maker.Capturer,
        "of_batch",
        lambda self, texts: captured.append(len(texts)) or of_batch(self, texts),
    ):
        work(tmp_path)
    assert sum(captured) == 5  # c's; a and b are on disk


@pytest.mark.one_in(3)
@pytest.mark.parametrize("kind", ["tiles", "factors"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "gone"])
def test_damaged_files_are_made_anew(tmp_path, kind, damage):
    whole = work(tmp_path / "whole")
    work(tmp_path / "damaged")
    folder = tmp_path / "damaged" / KEY[:24]
    if kind == "factors":
        shutil.rmtree(folder / "tiles")
    for path in (folder / kind).iterdir():
        content = bytearray(path.read_bytes())
        if damage == "cut":
            content = content[: len(content) // 2]
        elif damage == "flipped":
            content[-20] ^= 1
        elif damage == "empty":
            content = bytearray()
        path.write_bytes(bytes(content))
        if damage == "gone":
            path.unlink()
    assert same_bits(work(tmp_path / "damaged"), whole)


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_row_factors_damaged_while_the_work_goes_on_are_made_anew(tmp_path, damage):
    """Between the writing of a file and its first reading, in one run; the other files are not captured again."""
    whole = work(tmp_path / "whole")
    save, done, captured = WorkFolder.save_factors, [], []

    def damaging(self, group, index, tangents, device):
        found = save(self, group, index, tangents, device)
        path = self.folder / "factors" / self.factors_file(group, index)
        if not done:
            done.append(path)
            content = bytearray(path.read_bytes())
            content[-20] ^= 1
            path.write_bytes(content[:-100] if damage == "cut" else content)
            if damage == "gone":
                path.unlink()
        return found

    of_batch = tile_maker.Capturer.of_batch
    with (
        patch.object(WorkFolder, "save_factors", damaging),
        patch.object(
            tile_maker.Capturer,
            "of_batch",
            lambda self, texts: captured.append(len(texts)) or of_batch(self, texts),
        ),
    ):
        assert same_bits(work(tmp_path / "damaged"), whole)
    assert len(done) == 1
    assert sum(captured) == 4 + 10 + 2  # a trial of the longest texts, every text, and a batch once more


def test_files_are_checked_once_and_not_at_each_tile(tmp_path):
    checksum, counted = kept._of_tensor, []

    def counting(tensor):
        counted.append(tensor.numel())
        return checksum(tensor)

    with patch.object(kept, "_of_tensor", counting):
        work(tmp_path)
    files = {path: len(load_file(path)) for path in tmp_path.rglob("*.safetensors")}
    factors = {path: count for path, count in files.items() if path.parent.name == "factors"}
    read = len(counted) - sum(files.values())  # all were written, the factors were read
    assert (
        sum(factors.values()) <= read < sum(factors.values()) + 5
    )  # once each, with the logits, and not at each tile


def test_a_disk_that_gives_back_something_else_is_one_line(tmp_path):
    save = WorkFolder.save_factors

    def damaging(self, group, index, tangents, device):
        found = save(self, group, index, tangents, device)
        path = self.folder / "factors" / self.factors_file(group, index)
        path.write_bytes(path.read_bytes()[:-100])
        return found

    with (
        patch.object(WorkFolder, "save_factors", damaging),
        pytest.raises(
            UserError, match=r"the disk does not give back what was written .*; name another with --scratch"
        ),
    ):
        work(tmp_path)


class Elsewhere:
    """Does jobs as another process does, whose reports nobody hears."""

    def run(self, make_worker, jobs):
        return Local().run(pickle.loads(pickle.dumps(make_worker)), jobs)


@pytest.mark.parametrize("executor", [Local(), Elsewhere()])
@pytest.mark.parametrize("on_disk", [False, True])
def test_all_work_is_told_once_wherever_it_is_done(tmp_path, executor, on_disk):
    seen, report = steps(on_disk)
    work(tmp_path, on_disk=on_disk, report=report, executor=executor)
    assert [sum(part) for part in zip(*seen, strict=True)] == [3 + 2 + 5, 9 + 15 + 10 + 4]
    assert len(seen) >= 5  # a tile at a time, at least


def test_other_work_is_not_taken_for_this(tmp_path):
    work(tmp_path, key="a" * 32)
    with (
        patch.object(tile_maker.TileWorker, "tile", lambda *a: pytest.fail("computes")),
        pytest.raises(pytest.fail.Exception),
    ):
        work(tmp_path, key="b" * 32)


def test_finishing_removes_what_is_not_to_be_kept(tmp_path):
    work(tmp_path / "s")
    WorkFolder.finish(Settings(scratch=tmp_path / "s"), KEY)
    assert not (tmp_path / "s").exists()
    work(tmp_path / "s", keep=True)
    WorkFolder.finish(Settings(scratch=tmp_path / "s", keep_factors=True), KEY)
    names = sorted(path.name for path in (tmp_path / "s" / KEY[:24] / "factors").iterdir())
    assert [name[:2] for name in names] == ["a-", "a-", "b-", "c-", "c-", "c-"]
    assert not (tmp_path / "s" / KEY[:24] / "tiles").exists()


def test_a_full_disk_is_one_line_and_the_run_goes_on_later(tmp_path):
    """A file system of a few kilobytes, in place of one with holes: os.replace never happens, as on a real one."""
    from lmntk.system import kept

    whole = work(tmp_path / "whole")
    save, written = kept.save_tensors, []

    def full(path, tensors, metadata=None):
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        written.append(path)
        save(path, tensors, metadata)

    with (
        patch.object(kept, "save_tensors", full),
        pytest.raises(UserError, match=r"the disk is full.*what is finished is kept"),
    ):
        work(tmp_path / "full")
    assert len(list((tmp_path / "full").rglob("*.safetensors"))) == 3
    assert same_bits(work(tmp_path / "full"), whole)


TRIAL = Trial(
    tokens=400,
    longest=100,
    factors=400 * 2**20,
    largest=20 * 2**20,
    working=800 * 2**20,
    resident=500 * 2**20,
)


def schedule(memory, rows=32, columns=1000, **more):
    more = {"has_scratch": True} | more
    sizes = KernelSizes(TRIAL, [[100] * rows], [[100] * columns], 10_000, **more)
    return make_schedule(sizes, Budget(memory))


def test_schedules_fit_and_use_the_memory():
    last = None
    for gigabytes in (2, 3, 4, 8, 16, 64, 400):
        found = schedule(gigabytes * 2**30)
        assert found.peak <= gigabytes * 2**30
        assert found.chunk >= min(found.batch_size, 1000)
        if last is not None:
            assert (found.batch_size, not found.rows_on_disk) >= (
                last.batch_size,
                not last.rows_on_disk,
            ) or found.chunk > last.chunk
        last = found
    assert last == Schedule(32, False, 256, last.peak, 0)
    assert schedule(2 * 2**30).rows_on_disk
    assert schedule(2 * 2**30).disk == 32 * 100 * 2**20


def test_too_little_memory_is_refused_with_the_least_that_works():
    with pytest.raises(UserError, match=r"the least is (\d+)MiB$") as caught:
        schedule(2**30 // 2)
    least = int(str(caught.value).split()[-1].removesuffix("MiB"))
    assert schedule(least * 2**20).batch_size == 1
    with pytest.raises(UserError):
        schedule((least - 2) * 2**20)
    with pytest.raises(UserError, match="name a folder for what does not fit, with --scratch"):
        schedule(2**30, has_scratch=False)
    assert least * 2**20 > TRIAL.resident + MARGIN


def test_kept_factors_are_on_disk_whatever_the_memory():
    found = schedule(2**40, keep_factors=True)
    assert found.rows_on_disk
    assert found.disk == (32 + 1000) * 100 * 2**20
    with pytest.raises(UserError, match="no folder"):
        work(None, keep=True)


def test_a_disk_without_room_is_refused_at_the_start(tmp_path):
    with pytest.raises(
        UserError, match=r"the factors take about 1024\.0 TiB and .* free; name another folder with --scratch"
    ):
        WorkFolder(tmp_path, KEY).check_room(2**50)


@pytest.mark.skipif(
    not os.path.exists("/proc/self/clear_refs"), reason="only Linux starts its count of memory anew"
)
def test_what_a_body_takes_is_seen():
    size, _ = peak_of(lambda: torch.ones(64, 2**20).sum())
    assert 200 * 2**20 < size < 330 * 2**20
    size, kept = peak_of(lambda: torch.ones(2**20))
    assert size < 64 * 2**20
    assert resident() > 0
    assert len(kept) == 2**20


@pytest.mark.parametrize("formulas", [["sgd"], FORMULAS])
def test_kept_factors_give_the_kernels_again(tmp_path, formulas):
    whole = work(tmp_path, keep=True)
    WorkFolder.finish(Settings(scratch=tmp_path, keep_factors=True), KEY)
    kept = StoredFactors(tmp_path)
    assert kept.pairs == PAIRS
    for pair in PAIRS:
        found, noise = kept.kernels(pair, formulas)
        assert noise == (whole.noise[pair[0]] if formulas != ["sgd"] else 0)
        for name, groups in found.items():
            torch.testing.assert_close(groups["all"], whole.kernels[pair][name]["all"], rtol=1e-5, atol=1e-5)
    for group, values in whole.logits.items():
        torch.testing.assert_close(kept.logits(group), values)


def test_a_choice_of_parameters_of_kept_factors(tmp_path):
    row = TABLE["bert"]
    model = row.model(2).float()
    work(tmp_path, keep=True)
    kept = StoredFactors(tmp_path)
    texts = {
        group: random_texts(row, lengths, i)
        for i, (group, lengths) in enumerate({"a": [5, 4, 6], "b": [4, 4], "c": [3, 7, 5, 6, 4]}.items())
    }
    for chosen in (
        ParameterFilter(include=("*.layer.1.*",)),
        ParameterFilter(biases_only=True),
        ParameterFilter(exclude=("*embeddings*",)),
    ):
        expected = stream_kernels(
            KernelWork(model, texts, [("a", "c")], ["sgd"], chosen.select(model), pad_id(model))
        ).kernels["a", "c"]["sgd"]["all"]
        found, _ = kept.kernels(
            ("a", "c"), ["sgd"], Choice(chosen.include, chosen.exclude, chosen.biases_only)
        )
        torch.testing.assert_close(found["sgd"]["all"], expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="nothing is left"):
        kept.kernels(("a", "c"), ["sgd"], Choice(include=("nobody",)))


@pytest.mark.parametrize("name", ["bert", "bert-untied", "llama-tied", "llama"])
def test_low_rank_kernels_are_those_of_peft_at_its_start(tmp_path, name):
    """LoRA with our A on every linear map, B = 0: the gradient of B is G A^T, up to LoRA's own scale of one."""
    row = TABLE[name]
    model = row.model(2)
    texts = random_texts(row, [5, 4, 6], 0)
    settings = Settings(scratch=tmp_path, keep_factors=True)
    stream_kernels(
        KernelWork(model, {"a": texts}, [("a", "a")], ["sgd"], row.parameters.select(model), pad_id(model)),
        settings,
        key=KEY,
    )
    kept, low_rank = StoredFactors(tmp_path), LowRank(3, seed=5)
    weights = {name: dict(model.named_parameters())[name] for name in kept.index.adaptable}
    features = []
    for text in texts:
        logits = plain_logits(model, collate([text], pad_id(model)))
        rows = [torch.autograd.grad(logit, list(weights.values()), retain_graph=True) for logit in logits]
        projected = [
            torch.cat(
                [
                    (g @ low_rank.matrix(n, g.shape[1], g).T).flatten()
                    for n, g in zip(weights, part, strict=True)
                ]
            )
            for part in rows
        ]
        features.append(torch.stack(projected))
    stacked = torch.stack(features)
    found, _ = kept.kernels(("a", "a"), ["sgd"], Choice(low_rank=low_rank))
    torch.testing.assert_close(
        found["sgd"]["all"], torch.einsum("ncp,mdp->ncmd", stacked, stacked), rtol=1e-6, atol=1e-8
    )


def test_a_gradient_that_came_by_autograd_has_no_low_rank_kernel(tmp_path):
    class Doubled(torch.nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    row = TABLE["bert"]
    model = row.model(2)
    query = model.network.bert.encoder.layer[0].attention.self.query
    query.__class__ = Doubled
    settings = Settings(scratch=tmp_path, keep_factors=True)
    stream_kernels(
        KernelWork(
            model, {"a": random_texts(row, [5, 4], 0)}, [("a", "a")], ["sgd"], row.parameters.select(model), 0
        ),
        settings,
        key=KEY,
    )
    kept = StoredFactors(tmp_path)
    name = "network.bert.encoder.layer.0.attention.self.query.weight"
    with pytest.raises(
        UserError, match=f"lora-rank: the gradients of '{name}' came by plain autograd, .*--exclude {name}$"
    ):
        kept.kernels(("a", "a"), ["sgd"], Choice(low_rank=LowRank(2)))
    found, _ = kept.kernels(("a", "a"), ["sgd"], Choice(exclude=(name,), low_rank=LowRank(2)))
    assert found["sgd"]["all"].any()


def test_the_mean_of_low_rank_kernels_is_the_kernel_of_the_adapted_weights(tmp_path):
    work(tmp_path, keep=True)
    kept = StoredFactors(tmp_path)
    expected = kept.kernels(("a", "c"), ["sgd"], Choice(include=tuple(kept.index.adaptable)))[0]["sgd"]["all"]

    def distance(rank, draws):
        found = [
            kept.kernels(("a", "c"), ["sgd"], Choice(low_rank=LowRank(rank, seed)))[0]["sgd"]["all"]
            for seed in range(draws)
        ]
        return float((torch.stack(found).mean(0) - expected).norm() / expected.norm())

    assert distance(8, 40) < 0.12
    assert distance(64, 2) < distance(1, 2)


def test_kept_factors_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match="holds none; keep some with"):
        StoredFactors(tmp_path)
    work(tmp_path / "s", keep=True)
    with pytest.raises(UserError, match="'b,a' is not there; there are a,a; a,c"):
        StoredFactors(tmp_path / "s").kernels(("b", "a"), ["sgd"])
    next((tmp_path / "s").rglob("factors/c-*")).unlink()
    with pytest.raises(UserError, match="files of 'c' are missing"):
        StoredFactors(tmp_path / "s").kernels(("a", "c"), ["sgd"])
    work(tmp_path / "s", key="f" * 32, keep=True)
    with pytest.raises(UserError, match="holds 2 pieces of work; name one"):
        StoredFactors(tmp_path / "s")


def test_factors_that_no_schedule_tells_of_are_not_taken(tmp_path):
    work(tmp_path / "kept", chunk=2, keep=True)
    (folder,) = (tmp_path / "kept").iterdir()
    (folder / "work.json").unlink()
    assert list((folder / "factors").glob("c-00000002*"))
    other = work(tmp_path / "kept", chunk=4, keep=True)
    assert same_bits(other, work(tmp_path / "whole", chunk=4, keep=True))
