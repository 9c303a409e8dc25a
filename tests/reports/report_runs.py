"""Run folders that no run wrote: by the schema, with numbers that are made up and mean nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lmntk.kernels.kernel import Kernel
from lmntk.system.kept import CHECKSUM, write_record

VERSIONS = {"lmntk": "0.1.0", "python": "3.11", "torch": "2"}
METHODS = ("sgd ridge", "signgd ridge", "asigngd asym")


def row(
    task: str, k: int, seed: int, mode: str, method: str, test: float, metric: str = "accuracy"
) -> dict[str, Any]:
    return {
        "task": task, "k": k, "seed": seed, "mode": mode, "method": method, "formula": method.split()[0] if method in METHODS else "",
        "solver": "", "metric": metric, "dev": 0.5, "test": test, "setting": {}, "notes": [], "train_texts": 2 * k, "dev_texts": 2 * k,
        "test_texts": 40,
    }  # fmt: skip


def write_run(
    folder: Path,
    tasks: tuple[str, ...] = ("fictitious",),
    ks: tuple[int, ...] = (16,),
    seeds: tuple[int, ...] = (13, 21, 42),
    modes: tuple[str, ...] = ("prompt",),
    finetuned: bool = True,
    kernels: bool = True,
    classes: int = 2,
    model: str = "made/up-model",
    extra_methods: tuple[str, ...] = (),
) -> Path:
    """Writes a run folder; of every split its rows, and, as asked for, its kernels, a fine-tuning and its diagnosis."""
    random = np.random.default_rng(0)
    for task in tasks:
        for k in ks:
            for seed in seeds:
                for mode in modes:
                    _write_cell(
                        folder, random, task, k, seed, mode, finetuned, kernels, classes, extra_methods
                    )
    experiment = {
        "model": model, "data": "data", "tasks": [], "own_tasks": [{"name": task, "train": "train.csv", "test": "test.csv",
        "template": "{a} It was {mask}.", "label_words": ["terrible", "great"]} for task in tasks], "k": list(ks), "seeds": list(seeds),
        "modes": list(modes), "groups": True, "memory": None, "all_logits": False, "out": str(folder),
    }  # fmt: skip
    write(folder / "configuration.json", {"experiment": experiment, "versions": VERSIONS})
    return folder


def write(path: Path, content: Any) -> None:
    """Write a record as a run does, with the checksum of what it holds now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_record(path, {name: value for name, value in content.items() if name != CHECKSUM})


def _write_cell(folder, random, task, k, seed, mode, finetuned, kernels, classes, extra_methods):
    split = f"{task}-k{k}-seed{seed}-{mode}"
    level = 0.55 + 0.05 * np.log2(k) + (0.05 if mode == "prompt" else 0)
    base = "zero-shot" if mode == "prompt" else "linear probe"
    tests = {base: 0.61} | {
        method: float(np.clip(level + 0.04 * random.normal(), 0, 1)) for method in (*METHODS, *extra_methods)
    }
    labels = sorted(list(range(classes)) * k)
    if finetuned:
        tests |= {
            f"{name} fine-tuning": float(np.clip(level + 0.02 + 0.03 * random.normal(), 0, 1))
            for name in ("sgd", "adamw")
        }
    rows = [row(task, k, seed, mode, method, test) for method, test in tests.items()]
    write(
        folder / "splits" / f"{split}.json",
        {
            "key": "x",
            "split": split,
            "model": "weights",
            "rows": rows,
            "train_labels": labels,
            "versions": VERSIONS,
        },
    )
    outputs = 1 if classes == 2 else classes
    matrix = kernel_values(random, labels, outputs)
    if kernels:
        parts = {
            "embeddings": 0.1 * matrix,
            "layer.00": 0.3 * matrix,
            "layer.01": 0.4 * matrix,
            "head": 0.2 * matrix,
        }
        Kernel("sgd", matrix, groups=parts).save(
            folder / "kernels" / f"{split}-00000000" / "train-sgd.safetensors"
        )
    if finetuned:
        head = {
            "key": "x",
            "split": split,
            "task": task,
            "k": k,
            "seed": seed,
            "mode": mode,
            "metric": "accuracy",
            "versions": VERSIONS,
        }
        for name in ("sgd", "adamw"):
            for linearized in (False, True) if name == "sgd" else (False,):
                method = f"{name} fine-tuning" + (" (linearized)" if linearized else "")
                file = method.replace(" ", "-").replace("(", "-").replace(")", "-")
                write(
                    folder / "finetunings" / f"{split}-{file}.json",
                    head | finetuning(random, method, linearized),
                )
            method = f"{name} fine-tuning"
            content = head | diagnosis(
                random, method, tests, labels, matrix, outputs, kernel_like=name == "sgd"
            )
            write(folder / "diagnoses" / f"{split}-{name}-fine-tuning.json", content)


def kernel_values(random, labels, outputs):
    """Returns a positive semi-definite kernel [n, c, n, c] with blocks along the labels."""
    n = len(labels)
    features = random.normal(size=(n, 40)) * 0.7 + 1.5 * np.eye(max(labels) + 1, 40)[labels] + 0.5
    gram = features @ features.T
    return np.einsum("nm,cd->ncmd", gram, np.eye(outputs) + 0.1)


def finetuning(random, method, linearized):
    steps = list(range(0, 201, 20))
    runs = []
    for rate in (1e-4, 5e-4, 1e-3):
        curve = [
            {
                "step": s,
                "loss": float(0.7 * np.exp(-rate * s * 20) + 0.01 * random.random()),
                "dev": float(0.85 - 0.3 * np.exp(-rate * s * 25)),
            }
            for s in steps
        ]
        runs.append(
            {"learning_rate": rate, "batch_size": 8, "steps": 200, "status": "finished", "reason": "", "curve": curve, "best_step": 180,
             "dev": curve[-1]["dev"], "seconds": 12.0}
        )  # fmt: skip
    broken = {
        "learning_rate": 1e-2,
        "batch_size": 8,
        "steps": 200,
        "status": "diverged",
        "reason": "the loss is NaN at step 12",
    }
    runs.append(
        broken
        | {"curve": [{"step": 0, "loss": None, "dev": 0.5}], "best_step": None, "dev": None, "seconds": 1.0}
    )
    return {
        "format": "lmntk finetuning 2", "method": method, "optimizer": method.split()[0], "loss": "cross-entropy", "linearized": linearized,
        "parameters": {}, "trained": 1000, "runs": runs, "chosen": 2, "dev": runs[2]["dev"], "test": 0.8,
        "predictions": [0, 1], "checkpoint": None,
    }  # fmt: skip


def classes_of(logits):
    return (logits.argmax(1) if logits.shape[1] > 1 else (logits[:, 0] > 0).astype(int)).tolist()


def diagnosis(random, method, tests, labels, matrix, outputs, kernel_like):
    m = 40
    truth = random.integers(0, max(labels) + 1, size=m)
    before = 0.5 * random.normal(size=(m, outputs))
    push = np.where(truth[:, None] == (np.arange(outputs) if outputs > 1 else 1), 2.0, -2.0)
    tuned = before + push + 0.7 * random.normal(size=(m, outputs))
    linear = tuned + (0.2 if kernel_like else 2.5) * random.normal(size=(m, outputs))
    steps = list(range(0, 201, 20))
    real = np.cumsum(random.normal(size=(len(steps), 4, outputs)) * 0.3, axis=0)
    summed = np.einsum("ncmc->nm", matrix)
    size = min(len(summed), 64)
    distance = 0.4 if kernel_like else 3.1
    values = (1.04, 0.93, distance) if kernel_like else (0.91, 0.21, distance)
    eigenvalues, vectors = np.linalg.eigh(summed)
    y = np.asarray(labels) - np.mean(labels)
    names = ("solves", "linearization", "fixed features")
    passed = (values[0] >= 0.9, values[1] >= 0.5, values[2] < 2)
    results = [
        {"name": name, "value": value, "threshold": threshold, "passed": bool(good), "sentence": "made up"}
        for name, value, threshold, good in zip(names, values, (0.9, 0.5, 2.0), passed, strict=True)
    ]
    no_reason = "The linearized model recovers 21 % of the gain, below 50 %: made up."
    return {
        "format": "lmntk diagnosis 3",
        "method": method,
        "metric": "accuracy",
        "formula": "sgd",
        "verdict": "kernel-like" if kernel_like else "not",
        "reason": "All three tests pass: made up." if kernel_like else no_reason,
        "tests": results,
        "numbers": {
            "zero_shot": 0.4, "fine_tuned": tests[method], "kernel": values[0] * tests[method],
            "linearized": 0.4 + values[1] * (tests[method] - 0.4), "kernel_distance": distance,
            "gradient_distance": 0.3, "chi_with_prompt": 0.31, "chi_without_prompt": 0.52, "largest_stable_rate": 2.4e-3, "rate": 1e-3,
            "logit_error": None,
        },
        "trajectory": [
            {"step": s, "logit_error": 0.002 * s, "kernel_distance": distance * s / 200, "gradient_distance": 0.3 * s / 200,
             "linearized": 0.7, "dev": 0.7}
            for s in steps
        ],
        "logits": {"before": before.tolist(), "fine_tuned": tuned.tolist(), "linearized": linear.tolist(), "labels": truth.tolist()},
        "predictions": {
            "zero_shot": classes_of(before), "fine_tuned": classes_of(tuned), "linearized": classes_of(linear), "kernel": truth.tolist(),
        },
        "emulation": {
            "steps": steps, "real": real.tolist(), "emulated": (real + 0.02 * random.normal(size=real.shape)).tolist(), "error": 0.01,
        },
        "spectrum": {"eigenvalues": eigenvalues[::-1].tolist(), "alignment": ((vectors.T @ y) ** 2 / (y @ y))[::-1].tolist()},
        "groups": {"embeddings": 0.1, "layer 0": 0.3, "layer 1": 0.4, "head": 0.2},
        "kernels": {
            "before": summed[:size, :size].tolist(), "after": (1.3 * summed[:size, :size]).tolist(), "labels": labels[:size],
        },
    }  # fmt: skip
