"""The model and texts that come with lmntk: a small masked language model of our own, and labelled messages to a shop.

``tools/pretrain.py`` trained the model; its card is ``model/README.md``. The texts were written for lmntk: ``tools/demo_texts.py``.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
MODEL = FOLDER / "model"
EXAMPLES = FOLDER / "examples"
PROMPTS = {
    "reviews": ("{a} It was {mask}.", ("terrible", "great")),
    "topics": ("{a} This article is about {mask} news.", ("world", "sports", "business", "music")),
}
PRODUCTS = ("lamp", "knife", "clock", "chair")
