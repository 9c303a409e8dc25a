"""A Ray cluster of this machine, for the tests that have work for one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two processors' worth of a cluster, for all tests of a file: starting one takes seconds."""
    ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'lmntk[ray]'")
    from lmntk.system.executors.ray_cluster import RayCluster

    here = Path(__file__).parent
    folders = [here.parent, here, here.parents[1] / "tools"]
    places = [*map(str, folders), os.environ.get("PYTHONPATH", "")]
    environment = {"env_vars": {"PYTHONPATH": os.pathsep.join(places)}}
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        runtime_env=environment,
    )
    yield RayCluster(workers=2, threads=1)
    ray.shutdown()
