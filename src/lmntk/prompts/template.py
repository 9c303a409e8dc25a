"""Templates: where the texts and the mask stand in a prompt.

Two languages are read, and both give the same :class:`Template`:

* **readable**: ``{a} It was {mask}.``, ``{a|drop-last}? {mask}, {b|lower-first}``. Fields: ``{a}`` and
  ``{b}`` (the example's texts), ``{mask}``, and rarely ``{sep}`` and ``{sep+}`` (a separator token; after
  ``{sep+}`` the token types go up by one). Filters after bars, applied from left to right: ``drop-last``,
  ``lower-first``, ``upper-first``. A brace is written twice, ``{{``.
* **LM-BFF**: ``*cls**sent_0*_It_was*mask*.*sep+*``. The tokens at both ends (``*cls*`` and the last ``*sep*``
  or ``*sep+*``) are required and not kept: they stand for whatever the tokenizer puts around a sequence.

In both a new line is written as itself or as a backslash and an n, as on a command line; two backslashes before an n are one.

Spaces follow one rule in both languages. In the vocabularies of RoBERTa and SentencePiece a space belongs to
the word *after* it, so one space in front of a text is part of that text (``Text.leading_space``: LM-BFF's
``+sent``); one space in front of the mask is dropped, because the label word brings its own; spaces at the
template's end are dropped, because no word follows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal as OneOf
from typing import TypeAlias

from lmntk.errors import UserError

Field: TypeAlias = OneOf["a", "b"]

FILTERS = {
    "drop-last": lambda text: text[:-1],
    "lower-first": lambda text: text[:1].lower() + text[1:],
    "upper-first": lambda text: text[:1].upper() + text[1:],
}

_LM_BFF_TEXT = re.compile(r"(?P<space>\+?)sent(?P<case>[lu]?)(?P<drop>-?)_(?P<index>\d+)")
_LM_BFF_CASES = {"": (), "l": ("lower-first",), "u": ("upper-first",)}
_WRITTEN_NEW_LINE = re.compile(r"(?<!\\)\\n")
_READABLE_PIECE = re.compile(
    r"(?P<escaped>\{\{|\}\})|\{(?P<field>[^{}]*)\}|(?P<stray>[{}])|(?P<literal>[^{}]+)"
)


@dataclass(frozen=True, slots=True)
class Literal:
    """Words of the prompt itself, with their spaces."""

    text: str

    def __str__(self) -> str:
        return self.text.replace("{", "{{").replace("}", "}}").replace(r"\n", r"\\n")


@dataclass(frozen=True, slots=True)
class Text:
    """One of the example's texts, after its filters; ``leading_space``: a space stands before it."""

    field: Field
    filters: tuple[str, ...] = ()
    leading_space: bool = False

    def apply(self, text: str) -> str:
        """Return ``text`` after the filters."""
        for name in self.filters:
            text = FILTERS[name](text)
        return text

    def __str__(self) -> str:
        return (" " if self.leading_space else "") + "{" + "|".join((self.field, *self.filters)) + "}"


@dataclass(frozen=True, slots=True)
class Mask:
    """The position where the label word is predicted."""

    def __str__(self) -> str:
        return "{mask}"


@dataclass(frozen=True, slots=True)
class Separator:
    """A separator token inside the prompt; ``next_segment``: the token types go up by one after it."""

    next_segment: bool = False

    def __str__(self) -> str:
        return "{sep+}" if self.next_segment else "{sep}"


Part: TypeAlias = Literal | Text | Mask | Separator


@dataclass(frozen=True, slots=True)
class Template:
    """A prompt's parts in order; ``str`` gives the readable form, which parses back to the same template."""

    parts: tuple[Part, ...]

    @property
    def text_parts(self) -> tuple[Text, ...]:
        """The places where the example's texts go."""
        return tuple(part for part in self.parts if isinstance(part, Text))

    @property
    def has_mask(self) -> bool:
        """A flag: a label word is read at a mask."""
        return any(isinstance(part, Mask) for part in self.parts)

    @property
    def uses_text_b(self) -> bool:
        """A flag: every example needs a second text."""
        return any(part.field == "b" for part in self.text_parts)

    def __str__(self) -> str:
        spaced = (
            " {mask}" if isinstance(part, Mask) and index else str(part)
            for index, part in enumerate(self.parts)
        )
        return "".join(spaced)


def with_new_lines(text: str) -> str:
    r"""Return a template as written with its new lines as such; it stays the same template.

    >>> with_new_lines(r"{a}\nIt was") == with_new_lines("{a}\nIt was")
    True
    """
    return _WRITTEN_NEW_LINE.sub("\n", text.replace("\r\n", "\n"))


def parse_template(text: str, require_mask: bool = True) -> Template:
    """Return the template written in ``text``, in the readable language or LM-BFF's.

    A string that starts with ``*cls*``, or with ``*`` and has no brace, is LM-BFF's. ``require_mask=False``
    also allows prompts without a mask, which are read at their last token or in a decoder (see
    ``layout.py``).

    Raises:
        UserError: for a prompt that no example can be put into; the message quotes it.

    >>> lm_bff = parse_template("*cls**sent-_0*?*mask*,*+sentl_1**sep+*")
    >>> lm_bff == parse_template("{a|drop-last}? {mask}, {b|lower-first}")
    True
    """
    text = with_new_lines(text)
    is_lm_bff = text.startswith("*cls*") or (text.startswith("*") and "{" not in text)
    parts = _with_spaces_settled(_parse_lm_bff(text) if is_lm_bff else _parse_readable(text))
    template = Template(parts)
    masks = sum(isinstance(part, Mask) for part in parts)
    if masks > 1:
        raise _error(text, f"has {masks} masks: keep one")
    if require_mask and not masks:
        raise _error(
            text, "has no mask: write " + ("*mask*" if is_lm_bff else "{mask}") + " where the label word goes"
        )
    if not template.text_parts:
        raise _error(
            text,
            "has no text: write " + ("*sent_0*" if is_lm_bff else "{a}") + " where the example's text goes",
        )
    return template


def _parse_readable(text: str) -> list[Part]:
    parts: list[Part] = []
    for match in _READABLE_PIECE.finditer(text):
        if match["stray"]:
            raise _error(
                text,
                f"has an unbalanced {match['stray']!r} at character {match.start() + 1}: "
                "close it, or write a literal brace twice",
            )
        if match["escaped"]:
            parts.append(Literal(match["escaped"][0]))
        elif match["literal"]:
            parts.append(Literal(match["literal"].replace(r"\\n", r"\n")))
        else:
            parts.append(_readable_field(text, match["field"]))
    return parts


def _readable_field(template: str, body: str) -> Part:
    name, *filters = (word.strip() for word in body.split("|"))
    if name in ("mask", "sep", "sep+"):
        if filters:
            raise _error(template, f"puts a filter on {{{name}}}: only {{a}} and {{b}} take filters")
        return Mask() if name == "mask" else Separator(next_segment=name == "sep+")
    if name not in ("a", "b"):
        raise _error(
            template,
            f"has an unknown field {{{name}}}: use {{a}}, {{b}} or {{mask}} (a literal brace is written "
            "twice)",
        )
    for filter_name in filters:
        if filter_name not in FILTERS:
            raise _error(template, f"has an unknown filter {filter_name!r}: use one of {', '.join(FILTERS)}")
    return Text("a" if name == "a" else "b", tuple(filters))


def _parse_lm_bff(text: str) -> list[Part]:
    pieces = text.split("*")  # literals at even places, what stands between stars at odd ones
    if len(pieces) % 2 == 0:
        raise _error(text, "has an unbalanced '*': every part is written between two")
    names = pieces[1::2]
    if names[0] != "cls" or pieces[0] or names[-1] not in ("sep", "sep+") or pieces[-1] or len(names) < 2:
        raise _error(text, "must start with *cls* and end with *sep+*, as LM-BFF's templates do")
    parts: list[Part] = []
    for index, piece in enumerate(pieces[2:-2], start=2):
        if index % 2 == 0:
            parts.append(Literal(piece.replace("_", " ").replace(r"\\n", r"\n")))
        else:
            parts.append(_lm_bff_part(text, piece))
    return parts


def _lm_bff_part(template: str, name: str) -> Part:
    if name == "mask":
        return Mask()
    if name in ("sep", "sep+"):
        return Separator(next_segment=name == "sep+")
    match = _LM_BFF_TEXT.fullmatch(name)
    if match is None:
        raise _error(
            template,
            f"has an unknown part *{name}*: use mask, sep, sep+, sent_0, +sent_0, sent-_0, sentl_0, sentu_0 "
            "or their combinations",
        )
    if match["index"] not in ("0", "1"):
        raise _error(
            template, f"uses text {match['index']} in *{name}*: an example has sent_0 and sent_1 only"
        )
    filters = _LM_BFF_CASES[match["case"]] + (("drop-last",) if match["drop"] else ())
    return Text("a" if match["index"] == "0" else "b", filters, leading_space=bool(match["space"]))


def _with_spaces_settled(parts: list[Part]) -> tuple[Part, ...]:
    """Join neighbouring literals, and give every space to its part; see the module's text."""
    settled: list[Part] = []
    for part in parts:
        last = settled[-1] if settled else None
        if isinstance(part, Literal) and isinstance(last, Literal):
            settled[-1] = Literal(last.text + part.text)
            continue
        if isinstance(part, Text | Mask) and isinstance(last, Literal) and last.text.endswith(" "):
            already_spaced = isinstance(part, Text) and part.leading_space
            if not already_spaced:
                settled[-1] = Literal(last.text[:-1])
            if isinstance(part, Text):
                part = replace(part, leading_space=True)
        settled.append(part)
    if settled and isinstance(settled[-1], Literal):
        settled[-1] = Literal(settled[-1].text.rstrip(" "))
    return tuple(part for part in settled if part != Literal(""))


def _error(template: str, problem: str) -> UserError:
    return UserError(f"template {template!r} {problem}")
