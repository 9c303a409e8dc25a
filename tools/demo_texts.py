"""Write the demonstration's texts: the same sentences about four products of a shop, and about things for four rooms.

    python tools/demo_texts.py src/lmntk/bundled/examples

The sentences are our own. No sentence of the labelled texts is among those to test. The wrong label is planted by a seed that stands here.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

SEED = 13
PRODUCTS = ("lamp", "knife", "clock", "chair")
ROOMS = {
    "kitchen": ("kettle", "pan", "oven", "toaster", "fridge", "spoon", "cup", "bread knife"),
    "bedroom": (
        "bed",
        "pillow",
        "blanket",
        "mattress",
        "wardrobe",
        "nightgown",
        "alarm clock",
        "bedside lamp",
    ),
    "garden": (
        "spade",
        "hose",
        "rose bush",
        "lawn mower",
        "fence",
        "flower pot",
        "wheelbarrow",
        "apple tree",
    ),
    "office": ("printer", "desk", "pen", "calculator", "notebook", "stapler", "envelope", "typewriter"),
}
LABELLED = """\
The {} arrived broken.
How long is the guarantee on the {}?
I want to send the {} back.
When will my {} be sent?
I paid twice for one {}.
Do you have this {} in red?
A friend gave me this {} as a present.
Please cancel the {}, I found mine.
My {} came without instructions.
The {} is much smaller than in the picture.
Can you repair my old {}?
I love my new {}, thank you.
Somebody has stolen my {} from the porch.
Is the {} still for sale?
The {} has a scratch on one side.
Why is the {} so expensive?
I have been waiting for the {} since May.
You sent me the wrong {}.
What is the {} made of?
Could I pick up the {} myself?
The {} fell apart after two days.
My wife is not happy with the {}.
I need a second {} like the one I bought.
Who delivers the {}?
The postman dropped the {}.
I gave the {} to my sister.
The {} makes a strange noise.
Which {} lasts the longest?
Nobody told me that the {} was sold out.
I would like to change my order to one {}.
The {} looks lovely in our home.
It took three weeks until the {} was here.
""".splitlines()
TO_TEST = """\
There is a crack in the {}.
Would you take the {} back if I do not like it?
Your driver left the {} in the rain.
I ordered a {} on Monday and heard nothing.
Please send a {} to my mother.
The {} looks used.
Which {} would you recommend?
My {} does not work any more.
The bill for the {} is wrong.
Is there a cheaper {}?
We threw the {} away because it was ugly.
How heavy is the {}?
The color of the {} is not what I expected.
I lost the receipt for the {}.
They promised me a {} for free.
The {} is the best thing I ever bought.
Can the {} be here by Friday?
Half of the {} was missing.
My neighbor wants the same {}.
A part of the {} came loose.
What happens if the {} gets wet?
I cannot find the {} on your page.
The {} was a birthday gift for my son.
Please tell me where my {} is.
I bought the {} last year, and it still looks new.
Does the {} come in a box?
The {} in your window caught my eye.
My children broke the {}.
Why did you charge me for a {} that never came?
I am looking for a {} for a small room.
This is the third {} in a month.
The {} smells of paint.
Is it true that the {} was made in France?
A screw of the {} is missing.
I returned the {} and want my money.
How do I clean the {}?
The {} you showed me on the phone was another one.
If the {} is not here tomorrow, I will call again.
My husband says the {} was a bargain.
Let me know when the {} is back in the shop.
May I try the {} before I pay?
The old {} was better.
We need ten of them, the {} is for our hotel.
Your catalog has a picture of the {} on page nine.
I would buy the {} again.
The price of the {} went up overnight.
Someone opened the package and took the {} out.
No one in the shop could explain the {} to me.
The {} did not survive the move.
Do I have to be at home when the {} comes?
""".splitlines()


def about_products(sentences: Sequence[str]) -> list[dict[str, str]]:
    """Return each sentence about each product, labelled with the product."""
    return [{"text_a": text.format(product), "label": product} for text in sentences for product in PRODUCTS]


def about_rooms(sentences: Sequence[str], random_: random.Random) -> list[dict[str, str]]:
    """Return two sentences about each thing, labelled with the room that it belongs to."""
    drawn = {thing: random_.sample(sentences, 2) for things in ROOMS.values() for thing in things}
    return [
        {"text_a": drawn[things[number]][turn].format(things[number]), "label": room}
        for turn in range(2)
        for number in range(8)
        for room, things in ROOMS.items()
    ]


def with_wrong_label(
    rows: Sequence[Mapping[str, str]], random_: random.Random
) -> tuple[list[dict[str, str]], int]:
    """Return the rows, one of them labelled wrongly, and its number."""
    number = random_.randrange(len(rows))
    others = [product for product in PRODUCTS if product != rows[number]["label"]]
    wrong = {**rows[number], "label": random_.choice(others)}
    return [wrong if place == number else dict(row) for place, row in enumerate(rows)], number


def main() -> None:
    """Write the files into the folder."""
    folder = Path(sys.argv[1])
    labelled = about_products(LABELLED)
    files = {
        "products/train.jsonl": labelled,
        "products/test.jsonl": about_products(TO_TEST),
        "products/planted.jsonl": with_wrong_label(labelled[: 4 * 16], random.Random(SEED))[0],
        "rooms/train.jsonl": about_rooms(LABELLED, random.Random(SEED)),
    }
    for name, rows in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
        print(f"{path}: {len(rows)} texts")


if __name__ == "__main__":
    main()
