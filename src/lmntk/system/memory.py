"""Amounts of memory: as people write them, what there is, what this process holds and has held."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from string import ascii_letters
from typing import TypeVar

from lmntk.errors import UserError

Result = TypeVar("Result")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_LARGE = 2**20


def parse_bytes(text: str, option: str = "memory") -> int:
    """Return the bytes that ``4GiB``, ``500MB`` or a plain number say.

    Raises:
        UserError: anything else.
    """
    from pydantic import ByteSize, TypeAdapter

    number = text.strip().rstrip(ascii_letters)
    unit = text.strip()[len(number) :] or "B"
    try:
        if not unit.endswith(("b", "B")):  # a bit, or a letter that may mean a thousand or 1,024
            raise ValueError
        # the unit alone: of a whole size ByteSize reads the beginning, and 1,000MB as one byte
        size = int(float(number) * TypeAdapter(ByteSize).validate_python(f"1{unit}"))
        if size > 0:
            return size
        raise ValueError
    except (ValueError, OverflowError):
        raise UserError(f"{option}: {text!r} is not a size; write 4GiB or 500MB") from None


def shown_bytes(size: float) -> str:
    """Return an amount as people read it: 900 MiB, 1.5 GiB."""
    for unit, name in ((2**40, "TiB"), (2**30, "GiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{max(1, round(size / 2**20)):,} MiB"


def total_memory(system: Path = Path("/")) -> int:
    """Return the bytes of memory that this process may use.

    They are the machine's, or the least that a control group allows that it is in. ``system`` is where the system's files are.
    """
    amounts = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _limits(system):
        with suppress(OSError, ValueError):  # no such group seen from here, or "max"
            amounts.append(int(path.read_text()))
    return min(amounts)


def _limits(system: Path) -> Iterator[Path]:
    """Yield the files that may bound this process's memory.

    They are of its control groups and of those around them, of either version. A container often sees its own group at the root, and
    in ``/proc`` the path that it has outside: the root is looked at in any case.
    """
    groups = system / "sys/fs/cgroup"
    memberships = {"0::/", "0:memory:/"}
    with suppress(OSError, ValueError):
        memberships |= set((system / "proc/self/cgroup").read_text().splitlines())
    for _, controllers, path in (line.split(":", 2) for line in memberships if line.count(":") >= 2):
        if not controllers:
            root, name = groups, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = groups / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = Path(path.lstrip("/"))
        yield from (root / part / name for part in (group, *group.parents))


def default_memory() -> int:
    """Return half of the memory that this process may use, in bytes."""
    return total_memory() // 2


def resident() -> int:
    """Return the bytes that this process holds now; where the system does not say, the most it has held."""
    with suppress(OSError, ValueError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return peak()


def peak() -> int:
    """Return the most bytes that this process has held since its start or the last ``peak_of``."""
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def peak_of(body: Callable[[], Result]) -> tuple[int, Result]:
    """Return how much this process's memory grew at most while the body ran, and what the body returned.

    Where the system cannot start its count anew (only Linux can), what lies below an earlier peak is not seen.
    """
    trim()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    before = resident()
    result = body()
    return max(0, peak() - before), result


def keep_freed() -> None:
    """Let the C library keep what is freed, where it can.

    Fresh memory costs more than the arithmetic done in it. Measured on captures of RoBERTa-base's shape: two fifths less time in all
    but the first batches. For the whole process, from now on.
    """
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, 2**31 - 1)
        library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def return_freed() -> None:
    """End what ``keep_freed`` began: large pieces go back to the system as soon as they are freed."""
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        library.mallopt(_M_TRIM_THRESHOLD, _LARGE)
    trim()


def trim() -> None:
    """Give memory that was freed back to the system, for the bound is on what is held."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
