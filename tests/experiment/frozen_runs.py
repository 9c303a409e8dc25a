"""The small runs that ``tools/freeze.py`` froze, the archive that it made of them, and how work is counted.

What is here uses public names of the package alone, but for ``COUNTED``.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import json
import pkgutil
import platform
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import torch
import transformers

import lmntk

HERE = Path(__file__).parent / "frozen"
ARCHIVE = HERE / "60f2df1.tar.xz"
BUNDLED = Path(lmntk.__file__).parent / "bundled" / "model"

# A kind of work, and the functions that do it, by the names that they had and have. Each is counted wherever in the package it lies.
COUNTED = {
    "captured texts": ("capture",),
    "kernels": ("stream_kernels",),
    "solutions": ("solve_cell", "solve_split"),
    "trainings": ("fine_tune", "fine_tune_linearized"),
    "diagnoses": ("diagnose_cell", "diagnose_split"),
}

# --- the runs ---------------------------------------------------------------------------------------------------------------------

FILMS = {
    "name": "films",
    "train": "films-train.jsonl",
    "test": "films-test.jsonl",
    "text_column": "text_a",
    "template": "{a} it was {mask}.",
    "label_words": ("terrible", "great"),
}
REVIEWS = {
    "name": "reviews",
    "train": "reviews-train.jsonl",
    "test": "reviews-test.jsonl",
    "text_column": "text_a",
    "template": "{a} It was {mask}.",
    "label_words": ("terrible", "great"),
}
TOPICS = {
    "name": "topics",
    "train": "topics-train.jsonl",
    "test": "topics-test.jsonl",
    "text_column": "text_a",
    "template": "{a} This article is about {mask} news.",
    "label_words": ("world", "sports", "business", "music"),
}
TINY: dict[str, Any] = {
    "model": "tiny",
    "own_tasks": (FILMS,),
    "k": (4,),
    "seeds": (13, 21),
    "test_limit": 8,
    "batch_size": 4,
}
SOLVERS = ("ridge", "asym", "logistic", "svc")
TRAINED = TINY | {
    "k": (2,),
    "formulas": ("sgd", "asigngd"),
    "finetune": ("sgd", "adamw"),
    "finetuning": {
        "learning_rates": {"sgd": (0.1, 0.3), "adamw": (0.01, 0.03)},
        "batch_sizes": (2,),
        "steps": 6,
        "eval_every": 2,
        "linearized": True,
        "save_weights": True,
        "checkpoint_seconds": 0.0,
    },
    "diagnose": True,
}

# Whole runs, by the names of their output folders; ``bundled`` is a link to the model in the package.
WHOLE: dict[str, dict[str, Any]] = {
    "reviews": {
        "model": "bundled",
        "own_tasks": (REVIEWS,),
        "k": (4,),
        "seeds": (13,),
        "modes": ("prompt", "head"),
        "solvers": SOLVERS,
        "test_limit": 6,
        "groups": True,
    },
    "topics": {"model": "bundled", "own_tasks": (TOPICS,), "k": (1,), "seeds": (13,), "test_limit": 4},
    "saved": TINY | {"modes": ("prompt", "head"), "solvers": SOLVERS, "groups": True, "save_models": True},
    "passed": TINY | {"formulas": ("sgd", "signgd"), "solvers": ("ridge", "logistic"), "keep_kernels": False},
    "trained": TRAINED,
}

# Runs that were killed before the write of that number whose path ends so: of the whole run of ``settings``.
CUT: dict[str, tuple[dict[str, Any], str, int]] = {
    "cut-tiles": (TINY | {"keep_factors": True, "groups": True}, r"/tiles/.*safetensors", 3),
    "cut-kernels": (
        TINY | {"modes": ("prompt", "head"), "solvers": SOLVERS, "groups": True},
        r"kernels/films-k4-seed13-head/.*safetensors",
        4,
    ),
    "cut-solving": (
        TINY | {"formulas": ("sgd", "signgd"), "solvers": ("ridge", "logistic"), "keep_kernels": False},
        r"cells/films-k4-seed21-prompt\.json",
        0,
    ),
    "cut-training": (TRAINED | {"seeds": (13,)}, r"/finetuning-.*/checkpoint-\d+/[^/]*json", 27),
    "cut-diagnosis": (TRAINED | {"seeds": (13,), "keep_kernels": False}, r"/diagnosis/.*\.json", 1),
}

# Runs, whole and killed, whose arrays are the same where both have them.
ALIKE = {"cut-kernels": "saved", "cut-training": "trained", "cut-diagnosis": "trained"}

# Commands, by what each writes into the folder, in this order.
COMMANDS: dict[str, list[str]] = {
    "kernel": [
        "kernel", "--model", "tiny", "--train", "few-train.jsonl", "--eval", "few-test.jsonl", "--template", FILMS["template"],
        "--label-words", "terrible,great", "--keep-factors", "--groups", "--out",
    ],
    "from-factors": ["kernel", "--factors", "kernel/scratch", "--groups", "--out"],
    "lora": ["kernel", "--factors", "kernel/scratch", "--lora-rank", "2", "--seed", "3", "--out"],
    "predicted.jsonl": ["predict", "--model-dir", "saved", "--input", "few-test.jsonl", "--output"],
}  # fmt: skip


# --- the archive ------------------------------------------------------------------------------------------------------------------

OUT = "{OUT}"  # in the archive, in place of the folder that holds the output folder


def machine() -> dict[str, Any]:
    """Returns what the last bits of a number depend on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    said = dict(part.split(":", 1) for part in reversed(lines) if ":" in part)  # the first processor's
    said = {name.strip(): value.strip() for name, value in said.items()}
    libraries = ("torch", "transformers", "numpy", "scipy", "scikit-learn")
    return {
        "processor": [said.get(name) for name in ("model name", "cpu family", "model", "stepping")],
        "flags": hashlib.sha256(said.get("flags", platform.processor()).encode()).hexdigest()[:16],
        "instructions": torch.backends.cpu.get_cpu_capability(),
        **{name: importlib.metadata.version(name) for name in libraries},
    }


def unpack(into: Path) -> Path:
    """Unpacks the archive into a folder that is not there yet, and writes its place where the frozen code would have written it."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(into, filter="data")
    (into / "bundled").symlink_to(BUNDLED)
    for path in into.rglob("owner.json"):
        path.write_text(path.read_text().replace(OUT, str(into.resolve())))
    return into


def experiment_of(settings: dict[str, Any], out: str) -> lmntk.Experiment:
    return lmntk.Experiment(**settings, out=Path(out))


# --- counting ---------------------------------------------------------------------------------------------------------------------


def everything_in_the_package() -> Iterator[Any]:
    """Yields the package's modules, all imported, but for those that start it."""
    for found in pkgutil.walk_packages(lmntk.__path__, "lmntk."):
        if (
            not found.name.endswith("__main__") and "ray" not in found.name
        ):  # Ray takes a second, and works in other processes
            yield importlib.import_module(found.name)


@contextmanager
def counting() -> Iterator[Counter[str]]:
    """Counts the work that is done while the body runs, by the names in ``COUNTED``, and the steps of trainings."""
    counts: Counter[str] = Counter()
    modules = list(everything_in_the_package())
    changed: list[tuple[Any, str, Any]] = []

    def put(holder: Any, name: str, function: Callable[..., Any], what: str) -> None:
        @wraps(function)
        def counted(*arguments: Any, **named: Any) -> Any:
            counts[what] += 1
            return function(*arguments, **named)

        changed.append((holder, name, function))
        setattr(holder, name, counted)

    try:
        for what, names in COUNTED.items():
            homes = [
                (module, name)
                for module in modules
                for name in names
                if callable(getattr(module, name, None))
            ]
            assert homes, (
                f"nothing in the package is called {' or '.join(names)}: put the name of today into COUNTED"
            )
            for module, name in homes:
                put(module, name, getattr(module, name), what)
        handler = transformers.trainer_callback.CallbackHandler
        put(handler, "on_step_end", handler.on_step_end, "training steps")
        yield counts
    finally:
        for holder, name, function in reversed(changed):
            setattr(holder, name, function)


def counts_of(settings: dict[str, Any], out: str) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Runs an experiment and returns its rows as JSON gives them back, and the work that was done."""
    with counting() as counts:
        rows = lmntk.run(experiment_of(settings, out))
    return json.loads(json.dumps(rows)), dict(counts)
