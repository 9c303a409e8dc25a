"""From a matplotlib figure to inline SVG: text stays text, colours follow the page's theme, and it says its numbers to those who cannot see it.

Matplotlib draws in *sentinel* colours; ``to_svg`` puts the page's CSS variables in their place, so that one drawing is legible in
light, in dark and on paper. Ids get the plot's own prefix, so that many plots stand on one page.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#010203", "#010204", "#010205", "#010206"
SERIES = ("#010211", "#010212", "#010213", "#010214", "#010215", "#010216")
THEME = {INK: "--ink", MUTED: "--muted", GRID: "--grid", PAPER: "--paper"} | {
    colour: f"--series-{number}" for number, colour in enumerate(SERIES, 1)
}
WIDTH = 4.0  # inches, 288 of the drawing's units: a phone shows them at 1.2 pixels, a screen at 1.7

_NAMESPACE = re.compile(r"\{[^}]*\}")
_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_FONT_FAMILY = re.compile(r"font-family:[^;]*(;|$)")
_FONT = re.compile(r"font: (?:(\w+) )?(\d[\d.]*px) [^;]*")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


@dataclass(frozen=True)
class Plot:
    """A drawn plot.

    Attributes:
        title: what it is, in a few words.
        svg: an ``<svg>`` element for an HTML page, safe as it is.
        caption: what to see in it, with its figures; plain text.
    """

    title: str
    svg: str
    caption: str


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib's settings for the page while the body runs, whatever the user's own are."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the browser has the glyphs that the measuring font lacks
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "svg.fonttype": "none",
                "svg.hashsalt": "lmntk",
                "text.parse_math": False,  # a dollar in a user's label is a dollar
                "font.size": 8,
                "axes.titlesize": 8,
                "axes.titlelocation": "left",
                "text.color": INK,
                "axes.labelcolor": MUTED,
                "axes.edgecolor": MUTED,
                "axes.linewidth": 0.6,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "axes.grid": True,
                "axes.axisbelow": True,
                "grid.color": GRID,
                "grid.linewidth": 0.6,
                "xtick.color": MUTED,
                "ytick.color": MUTED,
                "xtick.labelcolor": INK,
                "ytick.labelcolor": INK,
                "xtick.major.size": 0,
                "ytick.major.size": 0,
                "legend.frameon": False,
                "legend.fontsize": 8,
                "lines.linewidth": 1.5,
                "figure.facecolor": "none",
                "axes.facecolor": "none",
            }
        )
        yield


def new_figure(height: float) -> Figure:
    """Returns an empty figure of the page's width and this height in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), layout="constrained")


def plain(text: object) -> str:
    """Returns a text without the characters that XML has no place for."""
    return _CONTROL.sub("\ufffd", str(text))


def short(text: object, length: int = 28) -> str:
    """Returns a text in at most ``length`` characters, for where there is no room for more."""
    whole = " ".join(plain(text).split())
    return whole if len(whole) <= length else f"{whole[: length - 1]}…"


def to_svg(figure: Figure, identity: str, title: str, description: str) -> str:
    """Returns the figure as an ``<svg>`` element.

    Args:
        figure: drawn within ``style``.
        identity: of letters, digits and hyphens, one of its own on the page.
        title: its accessible name.
        description: its accessible description: the numbers.
    """
    buffer = io.StringIO()
    nothing: dict[str, Any] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=nothing)
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("metadata", "style")):  # the style is the whole page's once it stands in HTML
                parent.remove(child)
    _clean(root, identity)
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "class": "plot",
        "role": "img",
        "aria-label": plain(title),
        "aria-describedby": f"{identity}-text",
    }
    text = ElementTree.Element("desc", {"id": f"{identity}-text"})
    text.text = plain(description)
    root.insert(0, text)
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=True)


def _clean(root: ElementTree.Element, identity: str) -> None:
    """Drops namespaces, unused ids and useless digits; puts the theme's colours and the plot's own ids in."""
    used = {found for element in root.iter() for value in element.attrib.values() for found in _REFERENCE.findall(value)}
    used |= {
        value[1:] for element in root.iter() for name, value in element.attrib.items() if name.endswith("href") and value.startswith("#")
    }
    for element in root.iter():
        element.tag = _NAMESPACE.sub("", element.tag)
        element.tail = None
        if element.tag != "text":
            element.text = None
        cleaned = {}
        for name, value in element.attrib.items():
            name = _NAMESPACE.sub("", name)
            if name == "id":
                if value not in used:
                    continue
                value = f"{identity}-{value}"
            elif name == "href":
                value = f"#{identity}-{value[1:]}" if value.startswith("#") else value.replace("\n", "")
            else:
                if name != "transform":  # a picture's scale is multiplied by its size
                    value = _NUMBER.sub(lambda found: f"{float(found.group()):.2f}".rstrip("0").rstrip("."), value.replace("\n", ""))
                value = _REFERENCE.sub(rf"url(#{identity}-\1)", value)
            if name == "style":
                value = _FONT.sub(lambda found: f"font-size: {found[2]}" + (f"; font-weight: {found[1]}" if found[1] else ""), value)
                value = _FONT_FAMILY.sub("", value)
                for colour, variable in THEME.items():
                    value = value.replace(colour, f"var({variable})")
            cleaned[name] = value.strip()
        element.attrib = cleaned
