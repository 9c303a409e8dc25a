"""Twenty and 77 classes with `lmntk fit`: minutes, memory and accuracy, beside a bag of words.

    python benchmarks/many_classes.py --model MODEL --classes 20 --out build/many

The texts are our own: requests to a bank, a class for each thing and each wish (5 x 4 or 11 x 7), 16 labelled texts a class and 4 to test.
Test texts are put in other words than the labelled ones: no sentence frame of theirs, and other names for the thing.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

from sklearn.metrics import accuracy_score

from lmntk.baselines.rivals import of_words, word_counts

K, TESTS = 16, 4
# Names of the things: two for the labelled texts, two for those to test.
THINGS = {
    "card": (("card", "debit card"), ("bank card", "plastic")),
    "loan": (("loan", "personal loan"), ("credit agreement", "borrowing")),
    "transfer": (("transfer", "bank transfer"), ("wire payment", "money order")),
    "app": (("app", "mobile app"), ("phone application", "mobile software")),
    "pension": (("pension", "pension plan"), ("retirement fund", "retirement savings")),
    "account": (("account", "current account"), ("everyday account", "checking account")),
    "mortgage": (("mortgage", "home loan"), ("house financing", "property loan")),
    "insurance": (("insurance", "travel insurance"), ("holiday cover", "insurance policy")),
    "cheque": (("cheque", "cheque book"), ("paper check", "book of checks")),
    "statement": (("statement", "bank statement"), ("monthly summary", "list of transactions")),
    "deposit": (("deposit", "fixed deposit"), ("term savings", "locked savings")),
}
# Sentence frames of the wishes: those of the labelled texts, and those to test.
WISHES = {
    "order": (
        (
            "I would like to get a new {}",
            "how do I apply for a {}",
            "please send me a {}",
            "can I order a {} online",
            "I need a {} for my daughter",
            "what do you need from me to set up a {}",
            "I want to start a {} with you",
            "where can I request a {}",
        ),
        ("who do I ask if I want a {}", "is it possible to obtain a {} today"),
    ),
    "cancel": (
        (
            "I want to cancel my {}",
            "please stop my {} at once",
            "how do I get rid of my {}",
            "I no longer need the {}",
            "close my {} by Friday",
            "end the {} that I have with you",
            "can you terminate the {}",
            "my {} should be called off",
        ),
        ("we have decided to give up our {}", "is there a form to discontinue the {}"),
    ),
    "fee": (
        (
            "what does the {} cost",
            "why was I charged for the {}",
            "is there a fee on my {}",
            "the price of the {} is too high",
            "you took money for my {} twice",
            "how expensive is a {}",
            "refund the charge on the {}",
            "is the {} free of charge",
        ),
        ("how much do I pay for the {}", "what is this bill about my {}"),
    ),
    "delay": (
        (
            "I am still waiting for my {}",
            "the {} has not arrived",
            "when will my {} be ready",
            "my {} is late by a week",
            "how long does a {} take",
            "nothing has happened with my {} for days",
            "the {} was promised for Monday",
            "my {} is still pending",
        ),
        ("what is holding up my {}", "how many more days until my {} comes"),
    ),
    "broken": (
        (
            "my {} does not work",
            "there is an error with the {}",
            "the {} was refused",
            "something is wrong with my {}",
            "I get a failure message about my {}",
            "the {} keeps failing",
            "my {} is faulty",
            "I cannot use my {}",
        ),
        ("what can I do about a problem with the {}", "the {} gives me trouble again"),
    ),
    "limit": (
        (
            "raise the limit of my {}",
            "what is the maximum for a {}",
            "my {} is too small, increase it",
            "can the {} be larger",
            "what is the most that a {} allows",
            "I have reached the limit of my {}",
            "lower the ceiling of my {}",
            "is there an upper bound on the {}",
        ),
        ("up to which amount does the {} go", "I would like a higher cap on the {}"),
    ),
    "change": (
        (
            "change the address on my {}",
            "I moved, update my {}",
            "my name is spelled wrong on the {}",
            "correct the details of my {}",
            "put the {} in my wife's name",
            "edit the data of the {}",
            "my phone number on the {} is old",
            "switch the {} to another email",
        ),
        ("please amend the personal data for the {}", "the {} shows my former surname"),
    ),
}
SIZES = {20: (5, 4), 77: (11, 7)}


def texts_of(classes: int, seed: int = 0) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return labelled texts and texts to test, each with its class."""
    rng = random.Random(seed)
    things, wishes = SIZES[classes]
    train: list[tuple[str, str]] = []
    test: list[tuple[str, str]] = []
    for thing, (names, other_names) in list(THINGS.items())[:things]:
        for wish, (frames, other_frames) in list(WISHES.items())[:wishes]:
            label = f"{thing}-{wish}"
            train += rng.sample([(frame.format(name), label) for frame in frames for name in names], K)
            test += [(frame.format(name), label) for frame in other_frames for name in other_names]
    return train, test


def write(path: Path, *rows: tuple[str, ...]) -> None:
    """Write a table, its first row the header."""
    with path.open("w", encoding="utf8", newline="") as file:
        csv.writer(file).writerows(rows)


def main() -> None:
    """Fit and predict as a user would, in processes of their own, and print a line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--classes", type=int, choices=tuple(SIZES), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("more", nargs="*", help="further words for `lmntk fit`, after --")
    options = parser.parse_args()
    folder = options.out / str(options.classes)
    folder.mkdir(parents=True, exist_ok=True)
    train, test = texts_of(options.classes)
    files = {name: folder / f"{name}.csv" for name in ("train", "test", "answers")}
    write(files["train"], ("text", "label"), *train)
    write(files["test"], ("text",), *((text,) for text, _ in test))
    fit = ("fit", files["train"], "--model", options.model, "--out", folder / "fit")
    seconds = {"fit_seconds": lmntk(*fit, "--text-column", "text", "--label-column", "label", *options.more)}
    seconds["predict_seconds"] = lmntk("predict", folder / "fit", files["test"], "--out", files["answers"])
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    truth = [label for _, label in test]
    with files["answers"].open(encoding="utf8") as file:
        answers = [row["label"] for row in csv.DictReader(file)]
    counts, known = word_counts([text for text, _ in (*train, *test)]), len(train)
    words = of_words().fit(counts[:known], [label for _, label in train]).predict(counts[known:])
    row = {
        "classes": options.classes,
        "texts": len(train),
        "test_texts": len(test),
        "test": round(100 * accuracy_score(truth, answers), 1),
        "test_words": round(100 * accuracy_score(truth, words), 1),
        "chance": round(100 / options.classes, 1),
        "peak_mib": round(peak),
        **seconds,
    }
    print(json.dumps(row))


def lmntk(*words: object) -> int:
    """Run a command of lmntk, and return the seconds that it took."""
    start = time.time()
    subprocess.run([sys.executable, "-m", "lmntk", *map(str, words)], check=True)
    return round(time.time() - start)


if __name__ == "__main__":
    main()
