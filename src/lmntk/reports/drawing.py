"""From a matplotlib figure to inline SVG: text stays text, colours follow the page's theme, and its numbers are said in words.

Matplotlib draws in *sentinel* colours; ``to_svg`` puts the page's CSS variables in their place, so that one drawing is legible in
light, in dark and on paper. Ids get the plot's own prefix, so that many plots stand on one page.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.container import Container
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
        warnings.filterwarnings(
            "ignore", message="Glyph"
        )  # the browser has the glyphs that the measuring font lacks
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
                "xtick.bottom": False,
                "ytick.left": False,
                "legend.frameon": False,
                "legend.fontsize": 8,
                "lines.linewidth": 1.5,
                "figure.facecolor": "none",
                "axes.facecolor": "none",
            }
        )
        yield


def new_figure(
    heights: Sequence[float],
    *,
    left: float = 0.5,
    right: float = 0.15,
    titled: bool = False,
    key: bool = False,
) -> tuple[Figure, list[Axes]]:
    """Return a figure of the page's width with panels below each other on one x axis.

    Its margins are set here: matplotlib's own layout takes half of the time of a drawing.

    Args:
        heights: of the panels, in inches.
        left: room for what stands beside the y axis, in inches.
        right: room at the other edge.
        titled: leave room for a title above each panel.
        key: leave room for ``add_key``.
    """
    from matplotlib.figure import Figure

    top, above, below, gap = (0.24 if key else 0.04), (0.2 if titled else 0.0), 0.42, 0.14
    height = top + sum(heights) + above * len(heights) + gap * (len(heights) - 1) + below
    figure = Figure(figsize=(WIDTH, height))
    panels: list[Axes] = []
    y = height - top
    for number, one in enumerate(heights):
        y -= above + one
        place = (left / WIDTH, y / height, (WIDTH - left - right) / WIDTH, one / height)
        panels.append(figure.add_axes(place, sharex=panels[0] if panels else None))
        panels[-1].tick_params(labelbottom=number == len(heights) - 1)
        panels[-1].locator_params(axis="both", nbins=5)
        y -= gap
    return figure, panels


def room_for(labels: Iterable[str]) -> float:
    """Return the inches that labels take beside an axis."""
    return 0.14 + 0.07 * max(map(len, labels), default=0)


def add_key(
    figure: Figure, handles: Sequence[Artist | Container], left: float = 0.0, columns: int = 4
) -> None:
    """Write the key of colours and lines along the top of a figure that left room for it."""
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(left / WIDTH, 1.0), ncols=columns, borderaxespad=0, borderpad=0,
        handlelength=1.6, handletextpad=0.4, columnspacing=1.2,
    )  # fmt: skip


def plain(text: object) -> str:
    """Return a text without the characters that XML has no place for."""
    return _CONTROL.sub("\ufffd", str(text))


def short(text: object, length: int = 28) -> str:
    """Return a text in at most ``length`` characters, for where there is no room for more."""
    whole = " ".join(plain(text).split())
    return whole if len(whole) <= length else f"{whole[: length - 1]}…"


def figure_text(value: float) -> str:
    """Return a number in three digits, without an exponent where it is of a usual size."""
    return f"{value:.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"


def to_svg(figure: Figure, identity: str, title: str, description: str) -> str:
    """Return the figure as an ``<svg>`` element.

    Args:
        figure: drawn within ``style``.
        identity: of letters, digits and hyphens, one of its own on the page.
        title: its accessible name.
        description: its accessible description: the numbers.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.StringIO()
    nothing: dict[str, Any] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    canvas: Any = FigureCanvasSVG(figure)
    canvas.print_svg(buffer, metadata=nothing)  # savefig would draw it twice
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(
                ("metadata", "style")
            ):  # the style is the whole page's once it stands in HTML
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
    used = {
        found
        for element in root.iter()
        for value in element.attrib.values()
        for found in _REFERENCE.findall(value)
    }
    used |= {
        value[1:]
        for element in root.iter()
        for name, value in element.attrib.items()
        if name.endswith("href") and value.startswith("#")
    }
    for element in root.iter():
        element.tag = _NAMESPACE.sub("", element.tag)
        element.tail = None
        if element.tag != "text":
            element.text = None
        cleaned = {}
        for name, value in element.attrib.items():
            name = _NAMESPACE.sub("", name)
            if value.startswith("rotate(-0 "):
                continue
            if name == "id":
                if value not in used:
                    continue
                value = f"{identity}-{value}"
            elif name == "href":
                value = f"#{identity}-{value[1:]}" if value.startswith("#") else "".join(value.split())
            else:
                if name != "transform":  # a picture's scale is multiplied by its size
                    value = _NUMBER.sub(
                        lambda found: f"{float(found.group()):.2f}".rstrip("0").rstrip("."),
                        value.replace("\n", ""),
                    )
                value = _REFERENCE.sub(rf"url(#{identity}-\1)", value)
            if name == "style":
                value = _FONT.sub(
                    lambda found: (
                        f"font-size: {found[2]}" + (f"; font-weight: {found[1]}" if found[1] else "")
                    ),
                    value,
                )
                value = _FONT_FAMILY.sub("", value)
                for colour, variable in THEME.items():
                    value = value.replace(colour, f"var({variable})")
            cleaned[name] = value.strip()
        element.attrib = cleaned
