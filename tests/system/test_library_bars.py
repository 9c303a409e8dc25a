"""Bars of other libraries: whatever makes them, none is seen while lmntk loads, reads or saves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import tqdm.asyncio
import tqdm.auto
import tqdm.contrib
import tqdm.std
from huggingface_hub.utils import tqdm as hub_bar
from tiny import write_model
from transformers.utils import logging

from lmntk.finetuning.files import export
from lmntk.models.loading import load_pretrained
from lmntk.system.library_bars import without_bars

Maker = Callable[[Iterable[int]], Any]
MAKERS: dict[str, Maker] = {
    "tqdm": tqdm.std.tqdm,
    "auto": tqdm.auto.tqdm,
    "asked for": lambda numbers: tqdm.auto.tqdm(numbers, disable=False),
    "asyncio": tqdm.asyncio.tqdm,
    "enumerated": tqdm.contrib.tenumerate,
    "transformers": logging.tqdm,
    "huggingface_hub": hub_bar,
}


@pytest.fixture(autouse=True)
def _bars_on() -> None:
    logging.enable_progress_bar()


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
def test_no_bar_within(maker: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    """In whatever thread it is made; the same bar is there outside."""
    with without_bars():
        assert len(list(maker(range(3)))) == 3
        thread = threading.Thread(target=lambda: list(maker(range(3))))
        thread.start()
        thread.join()
    assert capsys.readouterr().err == ""
    list(maker(range(3)))
    assert "3/3" in capsys.readouterr().err


def test_nothing_is_left_after_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), without_bars(), without_bars():
        raise KeyError
    list(tqdm.std.tqdm(range(3)))
    assert "3/3" in capsys.readouterr().err


def test_in_python_loading_and_saving_print_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    shown = tqdm.std.tqdm.__init__

    def watched(bar: Any, *arguments: Any, **options: Any) -> None:
        shown(bar, *arguments, **options)
        made.append(bar.disable)

    monkeypatch.setattr(tqdm.std.tqdm, "__init__", watched)
    write_model(tmp_path / "model")
    capfd.readouterr()
    made.clear()
    pretrained = load_pretrained(str(tmp_path / "model"))
    export(tmp_path / "saved", pretrained.network, pretrained, {})
    assert made and all(made)  # bars were made, and each was disabled
    assert capfd.readouterr() == ("", "")


def test_blocks_that_overlap_leave_bars_as_they_were() -> None:
    """Of two threads: the first to begin is the first to end."""
    from tqdm.std import tqdm

    made = tqdm.__init__
    first, second = without_bars(), without_bars()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert tqdm.__init__ is not made
    second.__exit__(None, None, None)
    assert tqdm.__init__ is made
