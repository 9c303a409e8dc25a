"""tasks/: the texts, read from files of many layouts, drawn into few-shot splits, and scored.

The first folder of the way: it knows no tokens and no models. Everything here gives ``Example`` objects
with classes numbered from 0, in file order, so that a split is a list of row numbers.
"""

from lmntk.tasks.catalog import TASKS, Prompt, Task, get_task
from lmntk.tasks.data import TaskData
from lmntk.tasks.example import Example
from lmntk.tasks.folders import read_folder, read_glue_folder, read_k_shot_folder
from lmntk.tasks.hub import read_hub
from lmntk.tasks.metrics import METRICS, score
from lmntk.tasks.readers import read_data
from lmntk.tasks.splits import SEEDS, RowNumbers, k_shot_split
from lmntk.tasks.tables import Columns, read_jsonl, read_table, read_tables

__all__ = [
    "METRICS",
    "SEEDS",
    "TASKS",
    "Columns",
    "Example",
    "Prompt",
    "RowNumbers",
    "Task",
    "TaskData",
    "get_task",
    "k_shot_split",
    "read_data",
    "read_folder",
    "read_glue_folder",
    "read_hub",
    "read_jsonl",
    "read_k_shot_folder",
    "read_table",
    "read_tables",
    "score",
]
