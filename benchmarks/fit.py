"""Does `lmntk fit` say the truth of itself? Its estimate beside the accuracy on test texts, and its rivals on the same texts.

    python benchmarks/fit.py --model MODEL --data DATA --out docs/results/fit-minilm.csv
    python benchmarks/fit.py --out docs/results/fit-minilm.csv --report
    python benchmarks/fit.py --beside docs/results/fit-setfit.csv docs/results/fit-minilm.csv docs/results/fit-smollm2.csv
    python benchmarks/fit.py --data DATA --texts build/setfit/texts          # for peers_setfit.py

The labelled texts are the 2 k of train and dev of a published split, k = 16; the first 300 test texts that the split takes are classified.
Rows that are in the file already are not computed again. Rows of another form of the classes' kernel (--classes shared) go into a table of
their own.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from few_shot import FewShot, labels_of

from lmntk.baselines.rivals import of_words, probe, word_counts
from lmntk.engine.settings import SCRATCH, Settings
from lmntk.estimator.choice import choose_way
from lmntk.estimator.predictors import predictor_of
from lmntk.estimator.texts import LabelledTexts
from lmntk.estimator.ways import measure, way_of
from lmntk.models.build import text_features
from lmntk.models.loading import load_pretrained
from lmntk.prediction.predictor import DecisionRule, Predictor
from lmntk.solvers.selection import predict_labels
from lmntk.tasks import Example

TASKS = ("sst-2", "mr", "subj", "trec", "mrpc", "ag_news")
SEEDS = (13, 21, 42, 87, 100)
FIELDS = (
    *("model", "task", "seed", "texts", "test_texts", "classes", "mode", "setting", "outcome"),
    *("estimate", "low", "high", "test", "held_out_words", "test_words", "held_out_probe", "test_probe"),
    *("zero_shot", "centred", "log_loss_plain", "log_loss", "ece_plain", "ece", "seconds"),
)
BINS = 15


def main() -> None:
    """Compute the rows that are missing, or print the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model")
    parser.add_argument("--data")
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--test-limit", type=int, default=300)
    parser.add_argument("--classes", choices=("auto", "full", "contrasts", "shared"), default="auto")
    parser.add_argument("--kernels", type=Path, help="a folder that keeps the kernels for another time")
    parser.add_argument("--out", type=Path, help="the table of rows")
    parser.add_argument("--texts", type=Path, help="write the splits' texts to this folder, and end")
    parser.add_argument("--report", action="store_true")
    parser.add_argument(
        "--beside", type=Path, nargs="+", help="tables of rows; print test accuracies side by side"
    )
    options = parser.parse_args()
    if options.beside:
        beside(options.beside)
        return
    if options.texts:
        write_texts(options)
        return
    rows = read_rows(options.out)
    if options.report:
        report(rows)
        return
    done = {(row["task"], int(row["seed"])) for row in rows}
    if not rows:
        options.out.write_text(",".join(FIELDS) + "\n", encoding="utf8")
    pretrained = load_pretrained(options.model)
    for seed in options.seeds:
        for task in options.tasks:
            if (task, seed) not in done:
                row = {"model": Path(options.model).name} | measured(pretrained, options, task, seed)
                print(row, flush=True)
                with options.out.open("a", encoding="utf8") as file:
                    csv.DictWriter(file, FIELDS).writerow(row)


def write_texts(options: Any) -> None:
    """Write each split as JSON, for packages in an environment of their own."""
    options.texts.mkdir(parents=True, exist_ok=True)
    for name in options.tasks:
        for seed in options.seeds:
            split = FewShot.read(options.data, name, seed, options.test_limit)
            sides = {"train": [*split.train, *split.dev], "test": split.test}
            told = {
                side: {
                    "texts": LabelledTexts(tuple(examples), split.task.labels).plain,
                    "labels": labels_of(examples).tolist(),
                }
                for side, examples in sides.items()
            }
            (options.texts / f"{name}-{seed}.json").write_text(json.dumps(told), encoding="utf8")


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows that are there."""
    if not path.exists():
        return []
    with path.open(encoding="utf8") as file:
        return list(csv.DictReader(file))


def measured(pretrained: Any, options: Any, name: str, seed: int) -> dict[str, Any]:
    """Return the row of one split."""
    start = time.time()
    split = FewShot.read(options.data, name, seed, options.test_limit)
    task, tests = split.task, split.test
    texts = LabelledTexts((*split.train, *split.dev), task.labels)
    truth = labels_of(tests)
    settings = Settings(scratch=options.kernels and options.kernels / SCRATCH)
    classes = len(task.labels)
    encoders = {mode: split.encoder(pretrained, mode) for mode in ("prompt", "head")}
    ways = [
        way_of(pretrained, mode, encoder, task.labels, sharing=options.classes)
        for mode, encoder in encoders.items()
    ]
    ways_measured = [measure(way, texts.examples, settings, options.kernels) for way in ways]

    def features(examples: list[Example]) -> Any:
        encoded = [encoders["head"].encode(example) for example in examples]
        return text_features(pretrained, encoded).double().cpu().numpy()

    train_features = features(list(texts.examples))
    choice = choose_way(ways_measured, texts, train_features)
    standing = choice.standing
    assert standing is not None
    seconds = time.time() - start
    way = choice.measured.way
    decisions, _ = predictor_of(choice, settings).evaluate(way.encoded(tests))
    plain = LabelledTexts(tuple(tests), task.labels).plain
    counts, n = word_counts([*texts.plain, *plain]), len(texts.plain)
    words = of_words().fit(counts[:n], texts.numbers).predict(counts[n:])
    probed = probe().fit(train_features, texts.numbers).predict(features(tests))
    prompt = next(each for each in ways_measured if each.way.mode == "prompt")
    nothing = Predictor(prompt.way.model, [], prompt.way.pad_id, DecisionRule(f0_scale=1.0))
    logits, _ = nothing.evaluate(prompt.way.encoded(tests))
    held = {rival.name: rival.accuracy for rival in standing.rivals}
    plain_probabilities, probabilities = (
        np.exp(log_softmax(sharpness * decisions)) for sharpness in (1.0, choice.sharpness)
    )
    return {
        "task": name,
        "seed": seed,
        "texts": len(texts.examples),
        "test_texts": len(tests),
        "classes": classes,
        "mode": way.mode,
        "setting": dict(choice.setting),
        "outcome": standing.outcome,
        **{key: f"{value:.4f}" for key, value in {
            "estimate": standing.accuracy,
            "low": standing.low,
            "high": standing.high,
            "test": np.mean(predict_labels(decisions) == truth),
            "held_out_words": held["TF-IDF with logistic regression"],
            "test_words": np.mean(words == truth),
            "held_out_probe": held["the linear probe"],
            "test_probe": np.mean(probed == truth),
            "zero_shot": np.mean(predict_labels(logits) == truth),
            "centred": np.mean(predict_labels(logits - prompt.logits.mean(axis=0)) == truth),
            "log_loss_plain": log_loss(plain_probabilities, truth),
            "log_loss": log_loss(probabilities, truth),
            "ece_plain": calibration_error(plain_probabilities, truth),
            "ece": calibration_error(probabilities, truth),
        }.items()},
        "seconds": f"{seconds:.0f}",
    }  # fmt: skip


def log_softmax(decisions: np.ndarray) -> np.ndarray:
    """Return log-probabilities [n, classes] of decisions [n, c]."""
    if decisions.shape[1] == 1:
        return np.concatenate([-np.logaddexp(0, decisions), -np.logaddexp(0, -decisions)], axis=1)
    return decisions - np.logaddexp.reduce(decisions, axis=1, keepdims=True)


def log_loss(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean negative log-probability of the true classes."""
    return float(-np.log(np.clip(probabilities[np.arange(len(truth)), truth], 1e-12, 1)).mean())


def calibration_error(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """Return the expected calibration error over 15 bins of equal mass."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    bins = np.array_split(np.argsort(confidence), BINS)
    return float(
        sum(abs(confidence[chosen].mean() - right[chosen].mean()) * len(chosen) for chosen in bins)
        / len(truth)
    )


def beside(paths: list[Path]) -> None:
    """Print the mean test accuracy (deviation) of each table, and of TF-IDF, over the splits of a task that all tables have."""
    tables = {path.stem: {(row["task"], row["seed"]): row for row in read_rows(path)} for path in paths}
    common = sorted(set.intersection(*(set(table) for table in tables.values())))
    words = next(table for table in tables.values() if all("test_words" in row for row in table.values()))
    print(f"| task | splits | {' | '.join(tables)} | TF-IDF |\n|---|---|{'---|' * (len(tables) + 1)}")
    for task in [each for each in TASKS if each in {name for name, _ in common}]:
        splits = [key for key in common if key[0] == task]
        columns = [[100 * float(table[key]["test"]) for key in splits] for table in tables.values()]
        columns.append([100 * float(words[key]["test_words"]) for key in splits])
        figures = " | ".join(f"{np.mean(values):.1f} ({np.std(values):.1f})" for values in columns)
        print(f"| {task} | {len(splits)} | {figures} |")


def report(rows: list[dict[str, str]]) -> None:
    """Print a line for each task, and what the estimate is worth over all."""
    print(
        "| task | splits | held out | test | mean miss | TF-IDF | probe | zero-shot | centred | better, undecided, worse |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for task in dict.fromkeys(row["task"] for row in rows):
        some = [row for row in rows if row["task"] == task]

        def mean(name: str, some: list[dict[str, str]] = some) -> float:
            return 100 * float(np.mean([float(row[name]) for row in some]))

        outcomes = [row["outcome"] for row in some]
        counted = ", ".join(str(outcomes.count(each)) for each in ("better", "undecided", "worse"))
        figures = " | ".join(
            f"{mean(name):.1f}" for name in ("test_words", "test_probe", "zero_shot", "centred")
        )
        print(
            f"| {task} | {len(some)} | {mean('estimate'):.1f} | {mean('test'):.1f} | "
            f"{mean('estimate') - mean('test'):+.1f} | {figures} | {counted} |"
        )
    misses = np.asarray([float(row["estimate"]) - float(row["test"]) for row in rows])
    covered = [float(row["low"]) <= float(row["test"]) <= float(row["high"]) for row in rows]
    noise = [
        np.sqrt(2 / np.pi)
        * np.sqrt(
            float(row["test"])
            * (1 - float(row["test"]))
            * (1 / int(row["texts"]) + 1 / int(row["test_texts"]))
        )
        for row in rows
    ]
    print(
        f"\n{len(rows)} splits: mean signed miss {100 * misses.mean():+.1f} points, mean absolute {100 * np.abs(misses).mean():.1f} "
        f"(binomial noise alone {100 * np.mean(noise):.1f}); intervals of 90 in 100 cover {sum(covered)} of {len(covered)}"
    )
    for name in ("log_loss", "ece"):
        before, after = (np.mean([float(row[key]) for row in rows]) for key in (f"{name}_plain", name))
        print(f"{name}: {before:.3f} as the decisions come, {after:.3f} calibrated")


if __name__ == "__main__":
    main()
