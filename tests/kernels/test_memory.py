"""What memory there is, as a container or a scheduler's job sees it."""

from __future__ import annotations

import os

import pytest

from lmntk.system.memory import total_memory

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
GROUPS = "sys/fs/cgroup/"
UNBOUNDED = "9223372036854771712"  # how version 1 says it


def system(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return folder


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, MACHINE),
        ({GROUPS + "memory.max": 1000}, 1000),
        ({GROUPS + "memory.max": "max"}, MACHINE),
        (
            {
                "proc/self/cgroup": "0::/job/step",
                GROUPS + "job/step/memory.max": 500,
                GROUPS + "job/memory.max": 800,
            },
            500,
        ),
        (
            {
                "proc/self/cgroup": "0::/job/step",
                GROUPS + "job/step/memory.max": "max",
                GROUPS + "job/memory.max": 800,
            },
            800,
        ),
        ({"proc/self/cgroup": "0::/of/the/host", GROUPS + "memory.max": 700}, 700),
        ({GROUPS + "memory/memory.limit_in_bytes": 600}, 600),
        ({GROUPS + "memory/memory.limit_in_bytes": UNBOUNDED}, MACHINE),
        (
            {
                "proc/self/cgroup": "12:cpu,cpuacct:/other\n5:memory:/docker/a:b\n1:name=systemd:/x\n0::/x",
                GROUPS + "memory/docker/a:b/memory.limit_in_bytes": 400,
                GROUPS + "memory/memory.limit_in_bytes": UNBOUNDED,
            },
            400,
        ),
        ({"proc/self/cgroup": "5:memory:/of/the/host", GROUPS + "memory/memory.limit_in_bytes": 300}, 300),
        ({"proc/self/cgroup": "not what it should be", GROUPS + "memory.max": 200}, 200),
    ],
)
def test_the_least_of_all_limits_counts(tmp_path, files, expected):
    assert total_memory(system(tmp_path, files)) == expected
