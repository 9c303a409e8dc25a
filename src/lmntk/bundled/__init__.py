"""The model and texts that come with lmntk: a small masked language model of our own, and two labelled sets.

``tools/pretrain.py`` trained the model; its card is ``model/README.md``. The texts were written for lmntk.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
MODEL = FOLDER / "model"
EXAMPLES = FOLDER / "examples"
SHOTS = 8  # a class; four classes of 16 would take the two minutes alone
PROMPTS = {
    "reviews": ("{a} It was {mask}.", ("terrible", "great")),
    "topics": ("{a} This article is about {mask} news.", ("world", "sports", "business", "music")),
}
