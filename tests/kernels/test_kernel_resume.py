"""Work that is cut to the memory, and goes on where it was cut short: same bits, nothing damaged believed."""

from __future__ import annotations

import pickle
import shutil
from unittest.mock import patch

import pytest
from resumable_work import KEY, same_bits, work
from safetensors.torch import load_file

from lmntk.engine import tile_maker
from lmntk.engine.settings import Settings
from lmntk.engine.work_folder import WorkFolder
from lmntk.errors import UserError
from lmntk.system import kept
from lmntk.system.executors.local import Local


class KilledError(Exception):
    """In place of a kill: nothing catches it."""


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
            UserError, match=r"the disk does not return what was written .*; name another with --scratch"
        ),
    ):
        work(tmp_path)


class Elsewhere:
    """Does jobs as another process does, whose reports nobody hears."""

    def run(self, make_worker, jobs):
        # what was pickled a moment ago, as executors hand work to their processes
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
