"""Counterfactuals of one kernel against real retraining: LDS on halves of a few-shot split.

    python benchmarks/lds.py --model MODEL --data DATA --out lds
    python benchmarks/lds.py --out lds --report
    python benchmarks/lds.py --model MODEL --data DATA --out lds --dump       # for peers_attribution.py, whose scores the report reads

All that is measured was written down here before any real training was run. Every retraining is kept in --out as soon as it is
there, and what is there is not done again; a run that is cut short goes on. Tasks and protocols take turns, so that a short run has
some of each.

*Texts*: SST-2, Subj, TREC with the catalog's prompts, k = 16 texts a class of split 13, its first 100 test texts; two classes are
one logit.
*Training*: `sgd`: full batch, mean cross-entropy over the part, constant rate, 24 steps, the last one counts; no dropout, no
clipping, no decay; all parameters, the tied table counted once. The grid of rates is 1/4, 0.4, 0.63 and 1 times the rate up to
which the kernel predicts descent on all texts to be stable at f0. (24 steps: 12 do not halve the emulated loss at any rate of it.)
On all training texts each is really trained; e = ||real - emulated|| / ||real - before|| over the test texts' logits. The largest
rate with e <= .1 whose training loss at least halves is taken; if there is none, the one with the least e of those that halve the
loss, and that is said. `beyond`: 3 times the rate that was taken. `adamw`: without weight decay, 24 steps, the smallest rate of
2e-5, 5e-5, 1e-4 with which the training loss halves, else the largest.
*Parts*: halves of the training texts: `stratified`, half of each class, the headline; `uniform`, half of all. 100 of each with
`sgd`, then the first 32 stratified ones with `beyond` and `adamw`.

*LDS*: for each test text Spearman's correlation, over parts, of predicted and real margin (the true class's logit less the mean of
the others; of one logit its sign times it); the mean over test texts. Its error resamples test texts, not parts.
Refits train on each part anew: `emulator`, descent on the linearized model with the rate of `sgd` (of `beyond` 3 times it; for
`adamw`, which nothing emulates, that of `sgd`); `ridge refit`, kernel ridge regression with the setting that holds out best on all
texts. Additive scores are one number for a training and a test text, summed over the part: `contributions` of the emulated training
on all; `gradient dot`, the training text's step on the margin, and `gradient cosine`, over that gradient's length, before training
and after the real training on all; `embeddings`, the cosine of mean hidden states, and `BM25`, both with + for texts of the test
text's class and - 1 / (others) for others. `label count` is the number of texts of its class: no score at all, so what it reaches is
no merit.

*Added on 2026-12-01, after the tables of the first 100 halves had been seen*: `influence`, the margin after the emulated training
on all less that without the text, summed over the part; and `both ends`, the emulator (influence, contributions) on the mean of the
kernels before and after the real training on all texts, by `sgd` or `beyond`. On the first 100 stratified halves the latter was
compared with the kernel after training alone and with one that moves from the first to the last step by step; the mean was kept.
So the first 100 halves chose it, and what it is worth is for *fresh* ones to say: the stratified halves from number 100 on
(`--parts 132 --protocols stratified --few 0`), which get a table of their own. Last came `influence, ridge` and `contributions, ridge`: the
same of the ridge refit.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lds_scores import (
    PROTOCOLS,
    bm25,
    cosine,
    gradient_scores,
    label_count,
    lds,
    margins,
    part_of,
    predictions,
    signed,
)
from lds_split import Split, Training, save
from subspace_descents import loss

from lmntk.attribution.changes import Changes, TrainedTexts
from lmntk.attribution.descent_refits import DescentRefits
from lmntk.diagnosis.stability import stable_rates
from lmntk.models.loading import load_pretrained
from lmntk.models.weights import at_weights
from lmntk.solvers.emulator import logit_error
from lmntk.solvers.selection import predict_labels
from lmntk.system.files import write_text

TASKS = ("sst-2", "subj", "trec")
STEPS, FRACTIONS, HOLDS, BEYOND = 24, (0.25, 0.4, 0.63, 1.0), 0.1, 3.0
ADAMW_RATES = (2e-5, 5e-5, 1e-4)
PARTS, FEW = 100, 32
LEAST = 10  # parts of a table
AFTER = {"sgd": "after", "beyond": "after-beyond"}  # names of the kernels after a training on all texts
FIRST = 8  # parts of each kind before anything that only a score needs


def jobs(
    tasks: list[str], parts: int, few: int, protocols: Sequence[str] = PROTOCOLS
) -> Iterator[tuple[int, str, str, str]]:
    """Yield number of part, protocol, training and task, in the order in which they are done."""
    for number in range(parts):
        yield from ((number, protocol, "sgd", task) for protocol in protocols for task in tasks)
    for number in range(few):
        yield from (
            (number, "stratified", training, task) for training in ("beyond", "adamw") for task in tasks
        )


def path_of(out: Path, number: int, protocol: str, training: str, task: str) -> Path:
    """Return where a retraining is kept."""
    return out / f"{task}-{training}-{protocol}" / f"{number:04d}.npz"


def on_all(split: Split, training: Training) -> dict[str, Any]:
    """Return what a real training on all texts comes to, beside its emulation where there is one; kept by training."""
    path, name = split.out / f"{split.task}-on-all.json", f"{training.optimizer} {training.rate:.6g}"
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf8")) if path.exists() else {}
    if name not in known:
        texts = split.trained_texts
        real = split.retrain(range(texts.texts), training, with_train=True)
        assert real.train is not None
        emulated = DescentRefits(texts, np.full(training.steps, training.rate))
        whole = emulated.outcomes(Changes(np.ones((1, texts.texts))))[0]
        labels, of_test = texts.labels.tolist(), split.labels["test"]
        known[name] = {
            "rate": training.rate,
            "error": logit_error(texts.cross_f0, real.test, whole) if training.optimizer == "sgd" else None,
            "loss_ratio": loss(real.train, labels) / loss(texts.f0, labels),
            "accuracy": float(np.mean(predict_labels(real.test) == of_test)),
            "seconds": real.seconds,
        }
        write_text(path, json.dumps(known, indent=1))
        print(split.task, name, known[name], flush=True)
    return dict(known[name])


def rates_of(split: Split) -> dict[str, Any]:
    """Return the rates that were tried and the one that is taken, as the docstring says."""
    texts = split.trained_texts
    stable = stable_rates(texts.kernel, texts.f0, "cross-entropy").full_batch
    tried = [on_all(split, Training("sgd", fraction * stable, STEPS)) for fraction in FRACTIONS]
    halving = [each for each in tried if each["loss_ratio"] <= 0.5]
    good = [each for each in halving if each["error"] <= HOLDS]
    chosen = good[-1] if good else min(halving or tried, key=lambda each: each["error"])
    return {"tried": tried, "qualifies": bool(good), "sgd": chosen}


def beside(split: Split, name: str, taken: dict[str, Any]) -> dict[str, Any]:
    """Return what ``beyond`` or ``adamw`` come to on all texts."""
    if name == "beyond":
        return on_all(split, Training("sgd", BEYOND * taken["sgd"]["rate"], STEPS))
    for rate in ADAMW_RATES:
        found = on_all(split, Training("adamw", rate, STEPS))
        if found["loss_ratio"] <= 0.5:
            break
    return found


def keep_scores(split: Split) -> None:
    """Keep the additive scores that need the model but not its training."""
    path = split.out / f"{split.task}-scores-before.npz"
    if path.exists():
        return
    began = time.time()
    features = split.features()
    seconds, began = time.time() - began, time.time()
    words = bm25(split.plain("train"), split.plain("test"))
    seconds_of_words = time.time() - began
    scores = gradient_scores(split.kernels("before"), split.labels)
    save(
        path,
        **{f"{name}, before": each for name, each in scores.items()},
        **{
            "train_labels": split.labels["train"],
            "test_labels": split.labels["test"],
            "embeddings": signed(cosine(features["train"], features["test"]), split.labels, split.classes),
            "BM25": signed(words, split.labels, split.classes),
            "label count": label_count(split.labels),
            "seconds": np.array([seconds, seconds_of_words]),
        },
    )


def keep_after(split: Split, name: str, taken: dict[str, Any]) -> None:
    """Keep the kernels at the weights that training on all texts leaves, of ``sgd`` or ``beyond``; of ``sgd`` the gradients' scores too."""
    if not kernels_after(split.out, split.task, name).exists():
        weights: dict[str, Any] = {}
        training = Training("sgd", taken[name]["rate"], STEPS)
        split.retrain(range(split.trained_texts.texts), training, weights=weights)
        split.kernels(AFTER[name], weights)
    path = split.out / f"{split.task}-scores-after.npz"
    if name == "sgd" and not path.exists():
        scores = gradient_scores(split.kernels(AFTER[name]), split.labels)
        save(path, **{f"{score}, after": each for score, each in scores.items()})


def kernels_after(out: Path, task: str, name: str) -> Path:
    """Return where the kernels after a training on all texts are kept."""
    return out / f"{task}-kernels-{AFTER[name]}.npz"


def run(options: argparse.Namespace) -> None:
    """Do the retrainings that are missing."""
    pretrained = load_pretrained(options.model)
    splits = {task: Split(pretrained, options.data, task, options.out) for task in options.tasks}
    taken: dict[str, dict[str, Any]] = {}
    for task, split in splits.items():
        path = options.out / f"{task}.json"  # with what earlier runs took beside
        taken[task] = (json.loads(path.read_text(encoding="utf8")) if path.exists() else {}) | rates_of(split)
        keep_scores(split)
        write_text(path, json.dumps(taken[task], indent=1))
    if options.dump:
        for split in splits.values():
            dump(split)
        return
    todo = [
        job
        for job in jobs(options.tasks, options.parts, options.few, options.protocols)
        if not path_of(options.out, *job).exists()
    ]
    began = time.time()
    for done, (number, protocol, name, task) in enumerate(todo, 1):
        split = splits[task]
        if name not in taken[task]:
            taken[task][name] = beside(split, name, taken[task])
            write_text(options.out / f"{task}.json", json.dumps(taken[task], indent=1))
        if number >= FIRST or name != "sgd":
            for each in {"sgd", name} & AFTER.keys():
                keep_after(split, each, taken[task])
        optimizer = "adamw" if name == "adamw" else "sgd"
        part = part_of(split.labels["train"], protocol, number)
        real = split.retrain(part, Training(optimizer, taken[task][name]["rate"], STEPS))
        save(
            path_of(options.out, number, protocol, name, task),
            part=part,
            test=real.test.astype(np.float32),
            seconds=np.array(real.seconds),
        )
        left = (time.time() - began) / done * (len(todo) - done) / 3600
        print(f"{task} {name} {protocol} {number}: {real.seconds:.1f} s; {left:.1f} hours to go", flush=True)


def dump(split: Split) -> None:
    """Write the model as training on all texts leaves it, and the texts, for ``peers_attribution.py``."""
    folder, weights = split.out / f"{split.task}-peers", {}
    split.retrain(
        range(split.trained_texts.texts),
        Training("sgd", rates_of(split)["sgd"]["rate"], STEPS),
        weights=weights,
    )
    with at_weights(split.model, weights):
        split.model.network.save_pretrained(folder / "model")
    sides = {
        side: [
            {"ids": text.ids, "types": text.token_type_ids, "read": text.read_position, "label": int(label)}
            for text, label in zip(split.texts[side], split.labels[side], strict=True)
        ]
        for side in ("train", "test")
    }
    told = {"label_ids": split.model.label_ids.tolist(), "classes": split.classes, "pad_id": split.pad_id}
    write_text(folder / "texts.json", json.dumps(told | sides))


def report(options: argparse.Namespace) -> None:
    """Print a table for each task, protocol and training, of the parts that are there."""
    for task in options.tasks:
        if not (options.out / f"{task}.json").exists():
            print(f"### {task}\n\nNothing is there yet.\n")
            continue
        taken = json.loads((options.out / f"{task}.json").read_text(encoding="utf8"))
        fixed, before = (
            arrays(options.out / f"{task}-{name}.npz") for name in ("scores-before", "kernels-before")
        )
        labels = {side: fixed.pop(f"{side}_labels") for side in ("train", "test")}
        embeddings, words = fixed.pop("seconds")
        seconds = {"kernel": float(before["seconds"]), "embeddings": embeddings, "BM25": words}
        if (options.out / f"{task}-scores-after.npz").exists():
            fixed |= arrays(options.out / f"{task}-scores-after.npz")
            seconds["kernel after training"] = float(
                arrays(options.out / f"{task}-kernels-after.npz")["seconds"]
            )
        for path in sorted((options.out / f"{task}-peers").glob("*.npz")):
            peer = arrays(path)
            fixed[path.stem], seconds[path.stem] = peer["scores"], float(peer["seconds"])
        for path in sorted((options.out / f"{task}-peers").glob("*.txt")):
            print(f"{path.stem} does not run: {path.read_text(encoding='utf8').strip()}")
        texts = TrainedTexts.of(
            before["train"], before["cross"], labels["train"], before["f0"], before["cross_f0"]
        )
        described = "; ".join(
            f"{each['rate']:.3g}: e {each['error']:.3f}, loss x {each['loss_ratio']:.2f}"
            for each in taken["tried"]
        )
        meets = (
            "meets both conditions" if taken["qualifies"] else "is the nearest: none meets both conditions"
        )
        print(f"### {task}\n\nRates tried on all texts: {described}.")
        print(f"Taken: {taken['sgd']['rate']:.3g}, which {meets}.")
        print("Seconds, once: " + ", ".join(f"{name} {value:.1f}" for name, value in seconds.items()) + ".\n")
        for name in ("sgd", "beyond", "adamw"):
            kernels = {"before": texts}
            if name in AFTER and kernels_after(options.out, task, name).exists():
                after = arrays(kernels_after(options.out, task, name))
                kernels["both ends"] = texts.at_both_ends(after["train"], after["cross"])
            for protocol in PROTOCOLS:
                paths = sorted((options.out / f"{task}-{name}-{protocol}").glob("*.npz"))
                fresh = [path for path in paths if int(path.stem) >= PARTS]
                for title, some in (("", paths[: len(paths) - len(fresh)]), (", fresh", fresh)):
                    if some or not title:
                        which = (name, f"{task}, {name}, {protocol}{title}")
                        print_lds(some, which, kernels, fixed, labels, taken)


def arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file."""
    with np.load(path) as kept:
        return dict(kept)


def print_lds(
    paths: Sequence[Path],
    which: tuple[str, str],
    kernels: dict[str, TrainedTexts],
    fixed: Any,
    labels: Any,
    taken: Any,
) -> None:
    """Print the table of some retrainings, by the training's name and the table's."""
    name, title = which
    texts = kernels["before"]
    kept = [arrays(path) for path in paths]
    rows = [(each["part"], each["test"].astype(np.float64), float(each["seconds"])) for each in kept]
    finite = [row for row in rows if np.isfinite(row[1]).all()]
    if len(finite) < LEAST:
        print(f"**{title}**: {len(rows)} parts yet; no table.\n")
        return
    parts = np.zeros((len(finite), texts.texts))
    for weights, (part, _, _) in zip(parts, finite, strict=True):
        weights[part] = 1.0
    logits = np.stack([row[1] for row in finite])
    rate = taken["beyond" if name == "beyond" else "sgd"]["rate"]
    emulated = DescentRefits(texts, np.full(STEPS, rate)).outcomes(Changes(parts))
    errors = [logit_error(texts.cross_f0, real, each) for real, each in zip(logits, emulated, strict=True)]
    seconds = float(np.median([row[2] for row in rows]))
    whole = taken[name]
    print(
        f"**{title}**: {len(finite)} parts{lost(rows, finite)}, rate {whole['rate']:.3g}, "
        f"{seconds:.1f} s a retraining; on all texts loss x {whole['loss_ratio']:.2f}; the emulator misses "
        f"{np.median(errors):.3f} of a part's move (median)\n"
    )
    print("| score | LDS | error | ms a part |\n|---|---|---|---|")
    real = margins(logits, labels["test"])
    for score, (predicted, taken) in predictions(
        kernels, np.full(STEPS, rate), fixed, parts, labels["test"]
    ).items():
        value, error = lds(real, predicted)
        shown = "constant | " if np.isnan(value) else f"{value:.3f} | {error:.3f}"
        print(f"| {score} | {shown} | {1000 * taken / len(parts):.2f} |")
    print()


def lost(rows: list[Any], finite: list[Any]) -> str:
    """Return a word on the retrainings that diverged."""
    return f" ({len(rows) - len(finite)} more diverged)" if len(rows) > len(finite) else ""


def main() -> None:
    """Do what is missing, or print the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model")
    parser.add_argument("--data")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--parts", type=int, default=PARTS, help="of each protocol")
    parser.add_argument("--few", type=int, default=FEW, help="of the trainings beside")
    parser.add_argument("--protocols", nargs="+", choices=PROTOCOLS, default=list(PROTOCOLS))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--dump", action="store_true", help="write models and texts for peers_attribution.py, and end"
    )
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    report(options) if options.report else run(options)


if __name__ == "__main__":
    main()
