"""What is written down of a piece of work, and the four files of 0.1.0 in its place."""

from __future__ import annotations

import os

import pytest

from lmntk.engine.schedule import Schedule
from lmntk.engine.work import Claim, FactorIndex, Piece, WorkOwner, WorkRecord, read_record, write_record
from lmntk.engine.work_folder import WorkFolder
from lmntk.errors import UserError
from lmntk.system import kept

KEY = "0123456789abcdef0123456789abcdef"
WHOLE = WorkRecord(
    Claim("an identity", "/somewhere/out", ("one split", "another")),
    Schedule(4, True, 8, 2**30, 2**20, loss_texts=3),
    (Piece(("one split", "another"), ("sgd", "asigngd"), "f" * 64),),
    FactorIndex({"a": [2, 0, 1], "b/c": []}, [("a", "a"), ("a", "b/c")], ["a.weight"], "bfloat16"),
)


@pytest.mark.parametrize("record", [WorkRecord(), WHOLE, WorkRecord(schedule=WHOLE.schedule)])
def test_a_record_comes_back_as_it_was_written(tmp_path, record):
    write_record(tmp_path / "work", record)
    assert read_record(tmp_path / "work") == record
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["work.json"]


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"claim": 3}', '{"what": 1}', '{"format": "lmntk-work-2"}']
)
def test_what_cannot_be_read_is_no_record(tmp_path, content):
    (tmp_path / "work.json").write_text(content)
    assert read_record(tmp_path) == WorkRecord()
    assert read_record(tmp_path / "nowhere") == WorkRecord()


@pytest.mark.parametrize("change", [{"peak": None}, {"peak": "much"}, {"more": 1}])
def test_a_schedule_of_another_version_is_none_and_whose_it_is_stays_known(tmp_path, change):
    write_record(tmp_path, WHOLE)
    plain = kept.read_record(tmp_path / "work.json")
    plain["schedule"] |= change
    kept.write_record(tmp_path / "work.json", plain)
    found = read_record(tmp_path)
    assert found.schedule is None
    assert found.claim == WHOLE.claim


def test_each_part_is_written_beside_the_others(tmp_path):
    work, owner = WorkFolder(tmp_path / "scratch", KEY), WorkOwner(tmp_path / "out", ("a",))
    work.write_down(owner, schedule=WHOLE.schedule)
    work.write_down(factors=WHOLE.factors)
    work.write_down(pieces=WHOLE.pieces)
    assert work.record() == WorkRecord(owner.claim(), WHOLE.schedule, WHOLE.pieces, WHOLE.factors)
    work.remove(keep_factors=True)
    assert work.record() == WorkRecord(None, WHOLE.schedule, WHOLE.pieces, WHOLE.factors)


@pytest.mark.parametrize("kind", ["", "finetuning-"])
def test_an_owner_sweeps_what_is_its_own(tmp_path, kind):
    scratch, out = tmp_path / "scratch", tmp_path / "out"
    own = WorkOwner(out, ("a", "b"))
    claims = {
        "1" * 24: own.claim(),
        "2" * 24: WorkOwner(out, ("a",)).claim(),
        "3" * 24: WorkOwner(out, ("a", "c")).claim(),
        "4" * 24: WorkOwner(tmp_path / "other", ("a",)).claim(),
        "5" * 24: Claim(own.claim().identity, str(tmp_path / "moved"), ("a",)),
        "other-" + "6" * 24: own.claim(),
    }
    for name, claim in claims.items():
        write_record(scratch / f"{kind}{name}", WorkRecord(claim, WHOLE.schedule))
    (scratch / f"{kind}{'7' * 24}").mkdir()
    kept = WorkFolder(scratch, "8" * 24, kind)
    write_record(kept.folder, WorkRecord(own.claim(), WHOLE.schedule, (), WHOLE.factors))
    (kept.folder / "tiles").mkdir()
    write_record(out / "scratch" / f"{kind}{'9' * 24}", WorkRecord(own.claim()))
    WorkFolder.sweep(own, scratch, kind)
    left = {path.name.removeprefix(kind)[-1] for path in scratch.iterdir()}
    assert left == set("345678")
    assert not (out / "scratch").exists()
    assert kept.record() == WorkRecord(None, WHOLE.schedule, (), WHOLE.factors)
    assert not (kept.folder / "tiles").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match=r"^scratch: cannot write \(Permission denied\)"):
        WorkFolder(tmp_path, KEY).write_down(pieces=WHOLE.pieces)
