"""Files that are kept: a checksum that is not there is damage, and what the system says is no damage."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lmntk.errors import UserError
from lmntk.system import kept


def record_of(path: Path) -> None:
    kept.read_record(path)


def tensors_of(path: Path) -> None:
    kept.load_tensors(path)


READERS = {"a.json": record_of, "a.safetensors": tensors_of}


def plain(path: Path) -> Path:
    """Write a file as anybody writes one, without checksums."""
    if path.suffix == ".json":
        path.write_text(json.dumps({"a": 1}))
    else:
        save_file({"a": torch.ones(2)}, path)
    return path


@pytest.mark.parametrize("name", READERS)
def test_without_a_checksum_a_file_is_damaged_but_where_it_may_lack_one(tmp_path, name):
    path = plain(tmp_path / name)
    with kept.without_checksums():
        READERS[name](path)
    for read in (READERS[name], kept.verify):
        with pytest.raises(kept.DamagedError, match="it has no checksum"):
            read(path)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE, errno.EIO])
@pytest.mark.parametrize("name", READERS)
def test_what_the_system_says_of_a_file_is_no_damage(tmp_path, monkeypatch, name, number):
    path = plain(tmp_path / name)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, "the system's reason")

    monkeypatch.setattr(Path, "read_text", refuse)
    monkeypatch.setattr("safetensors.safe_open", refuse)
    for read in (READERS[name], kept.verify):
        with pytest.raises(UserError, match=r"cannot read .*the system's reason") as caught:
            read(path)
        assert not isinstance(caught.value, kept.DamagedError) and path.name in str(caught.value)


@pytest.mark.parametrize("name", READERS)
def test_a_folder_in_a_files_place_is_damage(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(kept.DamagedError):
        READERS[name](tmp_path / name)
