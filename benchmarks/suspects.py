"""Planted wrong labels: how many are found, beside word counts, a probe and cleanlab, and what the cut-off's promise is worth.

    python benchmarks/suspects.py --model MODEL --data DATA --out suspects
    build/cleanlab/venv/bin/python benchmarks/peers_cleanlab.py suspects
    python benchmarks/suspects.py --out suspects --report

The texts are the k a class of a published split. 10 in 100 of the labels, drawn at random, become another class at random; as many
drawings of a split as make 6 wrong labels or more. Everything then is as ``lmntk audit`` has it: prompt and head mode, the choice
by held-out texts made on the labels as they are. AUC: the share of pairs of a wrong and a right label in which the score doubts the
wrong one more; mean over the drawings of a split, then over splits, with the standard error over splits. The control goes first:
labels permuted over the texts before any is planted, so that nothing can be known; no score should be above .5 by more than its
error there (of six scores about one is, by chance; none should be by three errors). A drawing costs a minute, so there is a second
control with many: ridge regression of the prompt's kernel at lambda .1, without the pre-trained logits, on 20 permutations of a split;
with wrong labels drawn as above, and as many of each class (`balanced`).

The ceiling is what a decision of that held-out accuracy (by the true labels) can reach if it is normal with one spread,
Phi(sqrt 2 Phi^-1(accuracy)), for two classes; of more it is no ceiling (on TREC scores pass it). The named ones are those that the
cut-off names with its promise of .2 false ones; the report counts them anew, for several shares of labels that are taken to be
wrong. Kernels are kept in --out, and a row that is there is not computed again; each has a file of held-out probabilities for
``peers_cleanlab.py``.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from few_shot import FewShot
from measuring import print_table
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from lmntk.attribution.changes import TrainedTexts
from lmntk.attribution.ridge_refits import RidgeRefits
from lmntk.attribution.suspects import FALSE_DISCOVERIES, right_probability, suspicion_of
from lmntk.baselines.rivals import Refitted, of_words, probe, word_counts
from lmntk.engine.settings import Settings
from lmntk.estimator.choice import choose_way, folds_of
from lmntk.estimator.doubts import refits_of
from lmntk.estimator.texts import LabelledTexts
from lmntk.estimator.ways import measure, way_of
from lmntk.models.build import text_features
from lmntk.models.loading import load_pretrained
from lmntk.solvers.calibration import log_probabilities
from lmntk.solvers.folds import deal_folds
from lmntk.solvers.held_out import RidgeCandidates, held_out
from lmntk.solvers.selection import predict_labels

TASKS, SEEDS = ("sst-2", "trec"), (13, 21, 42, 87, 100)
SHARE, LEAST = 0.1, 6  # of wrong labels; how many of a split's drawings together
KINDS = ("control", "planted")
SHARES = (0.05, 0.1, 0.2)  # of labels that are taken to be wrong; a tenth is the truth
SCORES = ("probability", "margin", "self-influence", "gain of flipping", "TF-IDF", "probe")
KEY = ("model", "k", "kind", "task", "seed", "draw")
FIELDS = (
    *(*KEY, "texts", "wrong", "accuracy", "mode", *SCORES),
    *("named", "named_right", "expected_false", "seconds"),
)
CONTROL = ("margin", "self-influence", "gain of flipping")
CONTROL_FIELDS = ("model", "k", "task", "seed", "balanced", "draw", *CONTROL)
PERMUTATIONS, CONTROL_RIDGE = 20, 0.1


def planted(
    labels: np.ndarray, classes: int, seed: Sequence[int], kind: str, *, balanced: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return true labels [N], those with wrong ones among them [N], and which are wrong [N].

    Of the control the true labels are themselves permuted over the texts.
    """
    random = np.random.default_rng(seed)
    truth = random.permutation(labels) if kind == "control" else labels
    wrong = np.zeros(len(labels), dtype=bool)
    count = round(SHARE * len(labels))
    if balanced:
        for label in range(classes):
            wrong[random.permutation(np.flatnonzero(truth == label))[: math.ceil(count / classes)]] = True
    else:
        wrong[random.permutation(len(labels))[:count]] = True
    # one step for all where the classes are to keep their sizes
    step = random.integers(1, classes) if balanced else random.integers(1, classes, size=len(labels))
    others = (truth + step) % classes
    return truth, np.where(wrong, others, truth), wrong


def drawings(texts: int) -> int:
    """Return how often wrong labels are planted in a split."""
    return math.ceil(LEAST / round(SHARE * texts))


def probabilities_of(decisions: np.ndarray) -> np.ndarray:
    """Return the mean probabilities [N, classes] of rounds of decisions [R, N, C]."""
    return np.asarray(np.mean([np.exp(log_probabilities(each)) for each in decisions], axis=0))


class Subject:
    """A split's texts with a model, before labels are planted in it."""

    def __init__(self, pretrained: Any, options: Any, task: str, seed: int) -> None:
        split = FewShot.read(options.data, task, seed, 1, options.k)
        self.examples, self.labels = split.train, split.task.labels
        encoders = {mode: split.encoder(pretrained, mode) for mode in ("prompt", "head")}
        ways = [way_of(pretrained, mode, encoder, self.labels) for mode, encoder in encoders.items()]
        folder = options.out / "kernels"
        self.ways = [measure(way, self.examples, Settings(), folder) for way in ways]
        encoded = [encoders["head"].encode(example) for example in self.examples]
        self.features = text_features(pretrained, encoded).double().cpu().numpy()

    def row(self, seed: Sequence[int], kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the figures of one drawing, and the probabilities for other packages."""
        began = time.time()
        labels = np.array([example.label for example in self.examples])
        truth, noisy, wrong = planted(labels, len(self.labels), seed, kind)
        given = [replace(each, label=int(label)) for each, label in zip(self.examples, noisy, strict=True)]
        texts = LabelledTexts(tuple(given), self.labels)
        with patch("lmntk.estimator.choice.rivals_of", return_value=[]):  # they are held out below, once
            choice = choose_way(self.ways, texts, self.features)
        assert choice.held_out is not None
        found = suspicion_of(choice.held_out.decided, noisy, choice.sharpness, refits_of(choice, texts))
        outputs, rounds = self.ways[0].logits.shape[1], folds_of(texts, self.ways[0].kernel.shape[1], 0)
        rivals = {
            "TF-IDF": Refitted(of_words, word_counts(texts.plain), noisy, outputs),
            "probe": Refitted(probe, self.features, noisy, outputs),
        }
        by_name = {"ours": probabilities_of(choice.sharpness * choice.held_out.decided)} | {
            name: probabilities_of(held_out(rival, noisy, rounds).decisions) for name, rival in rivals.items()
        }
        n = np.arange(len(noisy))
        doubts = {
            "probability": -found.probability,
            "margin": -found.margin,
            "self-influence": found.self_influence,
            "gain of flipping": found.flip_gain,
            "TF-IDF": -by_name["TF-IDF"][n, noisy],
            "probe": -by_name["probe"][n, noisy],
        }
        decided = predict_labels(choice.held_out.decided.mean(axis=0))
        named = found.order[: found.named]
        return {
            "texts": len(noisy),
            "wrong": int(wrong.sum()),
            "accuracy": float(np.mean(decided == truth)),
            "mode": choice.measured.way.mode,
            **{name: "" if np.isnan(doubt).any() else auc(wrong, doubt) for name, doubt in doubts.items()},
            "named": found.named,
            "named_right": int((~wrong[named]).sum()),
            "expected_false": "" if found.expected_false is None else found.expected_false,
            "seconds": time.time() - began,
        }, {
            "labels": noisy.tolist(),
            "wrong": wrong.tolist(),
            "probabilities": {name: values.tolist() for name, values in by_name.items()},
        }

    def control(self, seed: int, balanced: bool) -> list[dict[str, Any]]:
        """Return the AUCs of plain ridge regression on permuted labels."""
        kernel, rows = self.ways[0].kernel, []
        labels = np.array([example.label for example in self.examples])
        nothing = np.zeros(kernel.shape[:2])
        for draw in range(PERMUTATIONS):
            _, noisy, wrong = planted(labels, len(self.labels), [seed, draw, 2], "control", balanced=balanced)
            candidates = RidgeCandidates(kernel, noisy, None, (CONTROL_RIDGE,))
            decided = held_out(candidates, noisy, deal_folds(noisy, rounds=3)).decided
            refits = RidgeRefits(TrainedTexts.of(kernel, kernel, noisy, nothing, nothing), CONTROL_RIDGE)
            found = suspicion_of(decided, noisy, 1.0, refits)
            doubts = {
                "margin": -found.margin,
                "self-influence": found.self_influence,
                "gain of flipping": found.flip_gain,
            }
            rows.append(
                {"balanced": int(balanced), "draw": draw}
                | {name: auc(wrong, each) for name, each in doubts.items()}
            )
        return rows


def auc(wrong: np.ndarray, doubt: np.ndarray) -> float:
    """Return the share of pairs of a wrong and a right label in which the wrong one is doubted more."""
    return float(roc_auc_score(wrong, doubt))


def run(options: argparse.Namespace) -> None:
    """Compute the rows that are missing: the control before the rest, every task of a seed before the next seed."""
    table = options.out / "rows.csv"
    (options.out / "probabilities").mkdir(parents=True, exist_ok=True)
    if not table.exists():
        table.write_text(",".join(FIELDS) + "\n", encoding="utf8")
    done = {tuple(row[name] for name in KEY) for row in read_rows(table)}
    controls = options.out / "control.csv"
    if not controls.exists():
        controls.write_text(",".join(CONTROL_FIELDS) + "\n", encoding="utf8")
    controlled = {(row["model"], row["k"], row["task"], row["seed"]) for row in read_rows(controls)}
    pretrained, model = load_pretrained(options.model), Path(options.model).name
    for seed in options.seeds:
        for task in options.tasks:
            subject = Subject(pretrained, options, task, seed)
            split = model, str(options.k), task, str(seed)
            if split not in controlled:
                rows = [row for balanced in (False, True) for row in subject.control(seed, balanced)]
                with controls.open("a", encoding="utf8") as file:
                    csv.DictWriter(file, CONTROL_FIELDS).writerows(
                        dict(zip(("model", "k", "task", "seed"), split, strict=True)) | row for row in rows
                    )
            for kind in KINDS:
                for draw in range(drawings(len(subject.examples))):
                    key = model, str(options.k), kind, task, str(seed), str(draw)
                    if key in done:
                        continue
                    row, told = subject.row([seed, draw, KINDS.index(kind)], kind)
                    name = "-".join(key)
                    (options.out / "probabilities" / f"{name}.json").write_text(
                        json.dumps({"key": dict(zip(KEY, key, strict=True))} | told), encoding="utf8"
                    )
                    shown = {n: f"{v:.4f}" if isinstance(v, float) else v for n, v in row.items()}
                    with table.open("a", encoding="utf8") as file:
                        csv.DictWriter(file, FIELDS).writerow(dict(zip(KEY, key, strict=True)) | shown)
                    print(name, shown, flush=True)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows that are there."""
    if not path.exists():
        return []
    with path.open(encoding="utf8") as file:
        return list(csv.DictReader(file))


def over_splits(rows: Sequence[dict[str, str]], name: str) -> tuple[float, float, int]:
    """Return the mean over splits of the means over their drawings, its standard error, and the number of splits; empty cells left out."""
    by_seed: dict[str, list[float]] = {}
    for row in rows:
        if row[name] != "":
            by_seed.setdefault(row["seed"], []).append(float(row[name]))
    means = [float(np.mean(values)) for values in by_seed.values()]
    if not means:
        return math.nan, math.nan, 0
    error = float(np.std(means, ddof=1) / math.sqrt(len(means))) if len(means) > 1 else math.nan
    return float(np.mean(means)), error, len(means)


def shown(rows: Sequence[dict[str, str]], name: str) -> str:
    """Return a mean with its error."""
    mean, error, splits = over_splits(rows, name)
    return f"{mean:.3f} ± {error:.3f}" if splits > 1 else f"{mean:.3f}" if splits else "none"


def false_share(rows: Sequence[dict[str, str]]) -> str:
    """Return how many of all named labels were right after all."""
    named, right = (sum(int(row[name]) for row in rows) for name in ("named", "named_right"))
    return f"{right} of {named} ({right / named:.2f})" if named else "none named"


def print_cut_offs(folder: Path, rows: Sequence[dict[str, str]], kind: str) -> None:
    """Print how many labels the cut-off names, and how many of these were right, by the share that is taken to be wrong.

    Without a share it counts with the held-out probability of the label itself.
    """
    told = []
    for row in rows:
        name = "-".join(row[part] for part in KEY)
        kept = json.loads((folder / "probabilities" / f"{name}.json").read_text(encoding="utf8"))
        of_class, labels = np.asarray(kept["probabilities"]["ours"]), np.asarray(kept["labels"])
        told.append((of_class[np.arange(len(labels)), labels], of_class.shape[1], np.asarray(kept["wrong"])))
    for share in (None, *SHARES):
        named = right = 0
        for given, classes, wrong in told:
            order = np.argsort(given, kind="stable")
            chances = given if share is None else right_probability(given, classes, share)
            running = np.cumsum(chances[order]) / np.arange(1, len(given) + 1)
            first = order[: int(np.sum(running <= FALSE_DISCOVERIES))]
            named, right = named + len(first), right + int((~wrong[first]).sum())
        measured = f", {right / named:.2f}" if named else ""
        print(
            f"{kind}, {'no share' if share is None else f'share {share}'}: {named} named, {right} of them right"
            f"{measured} (promised {FALSE_DISCOVERIES}); {sum(int(each[2].sum()) for each in told)} wrong in all"
        )


def report(options: argparse.Namespace) -> None:
    """Print AUCs, the control, the cut-off and, where ``peers_cleanlab.py`` has been, cleanlab's."""
    rows, peers, controls = (
        read_rows(options.out / name) for name in ("rows.csv", "cleanlab.csv", "control.csv")
    )
    groups = dict.fromkeys((row["model"], row["k"], row["task"]) for row in rows)
    for model, k, task in groups:
        mine = [row for row in rows if (row["model"], row["k"], row["task"]) == (model, k, task)]
        theirs = [row for row in peers if (row["model"], row["k"], row["task"]) == (model, k, task)]
        kinds = {kind: [row for row in mine if row["kind"] == kind] for kind in KINDS}
        seeds = len({row["seed"] for row in kinds["planted"]})
        if not kinds["planted"]:
            continue
        accuracy = over_splits(kinds["planted"], "accuracy")[0]
        print(
            f"\n{model}, {task}, k = {k}: {seeds} splits, {len(kinds['planted'])} drawings; "
            f"held-out accuracy {accuracy:.3f}; ceiling {norm.cdf(math.sqrt(2) * norm.ppf(accuracy)):.3f}"
        )
        lines = [[name, *(shown(kinds[kind], name) for kind in KINDS)] for name in SCORES]
        for method in dict.fromkeys((row["probabilities"], row["method"]) for row in theirs):
            of_method = [row for row in theirs if (row["probabilities"], row["method"]) == method]
            cells = [shown([row for row in of_method if row["kind"] == kind], "auc") for kind in KINDS]
            if any(cell != "none" for cell in cells):
                lines.append([f"cleanlab, {method[1]}, {method[0]}", *cells])
        print_table(["AUC", "control", "planted"], lines)
        many = [row for row in controls if (row["model"], row["k"], row["task"]) == (model, k, task)]
        for balanced in ("0", "1"):
            some = [row for row in many if row["balanced"] == balanced]
            if some:
                told = ", ".join(f"{name} {shown(some, name)}" for name in CONTROL)
                print(
                    f"control of plain ridge, {'balanced' if int(balanced) else 'as drawn'}, {len(some)}: {told}"
                )
        for kind in KINDS:
            print_cut_offs(options.out, kinds[kind], kind)
        for source in dict.fromkeys(row["probabilities"] for row in theirs):
            issues = [
                row
                for row in theirs
                if (row["probabilities"], row["method"], row["kind"])
                == (source, "find_label_issues", "planted")
            ]
            print(f"cleanlab's find_label_issues, {source}: right after all {false_share(issues)}")


def main() -> None:
    """Compute the rows that are missing, or print the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model")
    parser.add_argument("--data")
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    report(options) if options.report else run(options)


if __name__ == "__main__":
    main()
