"""cleanlab, as a real package in an environment of its own, on the probabilities that ``suspects.py`` wrote down.

    python3 -m venv build/cleanlab/venv
    build/cleanlab/venv/bin/pip install cleanlab==2.9.0
    build/cleanlab/venv/bin/python benchmarks/peers_cleanlab.py suspects

Each label's quality by its three methods, and ``find_label_issues`` as it comes. Imports nothing of lmntk. The table is written anew.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from sklearn.metrics import roc_auc_score

METHODS = ("self_confidence", "normalized_margin", "confidence_weighted_entropy")
KEY = ("model", "k", "kind", "task", "seed", "draw")
FIELDS = (*KEY, "probabilities", "method", "auc", "named", "named_right")


def main() -> None:
    """Write a row for each file, source of probabilities and method."""
    folder = Path(sys.argv[1])
    rows: list[dict[str, object]] = []
    for path in sorted((folder / "probabilities").glob("*.json")):
        told = json.loads(path.read_text(encoding="utf8"))
        labels, wrong = np.asarray(told["labels"]), np.asarray(told["wrong"])
        for source, values in told["probabilities"].items():
            probabilities = np.clip(np.asarray(values), 1e-6, 1.0)
            probabilities /= probabilities.sum(axis=1, keepdims=True)
            shared = told["key"] | {"probabilities": source}
            for method in METHODS:
                quality = get_label_quality_scores(labels, probabilities, method=method)
                rows.append(shared | {"method": method, "auc": f"{roc_auc_score(wrong, -quality):.4f}"})
            named = find_label_issues(labels, probabilities, n_jobs=1)
            rows.append(
                shared
                | {
                    "method": "find_label_issues",
                    "auc": "",
                    "named": int(named.sum()),
                    "named_right": int((named & ~wrong).sum()),
                }
            )
    with (folder / "cleanlab.csv").open("w", encoding="utf8", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"{len(rows)} rows")


if __name__ == "__main__":
    main()
