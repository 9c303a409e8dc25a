"""Files with a text and a label a row, in every format, and the notices that a call makes."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq

from lmntk.system.notices import kept


def write_csv(path, labels):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(
            [("text", "label"), *((f"text {i}", label) for i, label in enumerate(labels))]
        )
    return path


def write_jsonl(path, labels):
    path.write_text(
        "".join(json.dumps({"text": f"text {i}", "label": label}) + "\n" for i, label in enumerate(labels))
    )
    return path


def write_parquet(path, labels, names=None):
    table = pa.table({"text": [f"text {i}" for i in range(len(labels))], "label": labels})
    if names:
        feature = {"names": names, "_type": "ClassLabel"}
        info = {"info": {"features": {"text": {"dtype": "string", "_type": "Value"}, "label": feature}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, path)
    return path


WRITERS = {"csv": write_csv, "jsonl": write_jsonl, "parquet": write_parquet}


def heard(call):
    with kept() as lines:
        return call(), lines
