"""The small runs that commit 60f2df1 did, and the archive of the output folders that it wrote."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import lmntk

ARCHIVE = Path(__file__).parent / "earlier/60f2df1.tar.xz"
BUNDLED = Path(lmntk.__file__).parent / "bundled" / "model"

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

# --- the archive ------------------------------------------------------------------------------------------------------------------


def unpack(into: Path) -> Path:
    """Return a folder that is not there yet, with the content of the archive."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(into, filter="data")
    (into / "bundled").symlink_to(BUNDLED)
    return into


def experiment_of(settings: dict[str, Any], out: str) -> lmntk.Experiment:
    return lmntk.Experiment(**settings, out=Path(out))
