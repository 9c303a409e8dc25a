import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmntk.errors import UserError
from lmntk.prompts.template import FILTERS, Literal, Mask, Separator, Template, Text, parse_template


@pytest.mark.parametrize(
    ("readable", "lm_bff"),
    [
        ("{a} It was {mask}.", "*cls**sent_0*_It_was*mask*.*sep+*"),
        ("{mask}: {a}", "*cls**mask*:*+sent_0**sep+*"),
        ("{a} This article is about {mask} news.", "*cls**sent_0*_This_article_is_about*mask*_news.*sep+*"),
        ("{a|drop-last}? {mask}, {b|lower-first}", "*cls**sent-_0*?*mask*,*+sentl_1**sep+*"),
        ("{a} {mask}, {b|lower-first}", "*cls**sent_0**mask*,*+sentl_1**sep+*"),
        (" {a|upper-first}{mask}{b|lower-first|drop-last}", "*cls**+sentu_0**mask**sentl-_1**sep*"),
        ("{a}{sep+}{b|drop-last} {mask}", "*cls**sent_0**sep+**sent-_1**mask**sep+*"),
        ("{a}?{sep}{mask}, {b|drop-last}", "*cls**sent_0*?*sep**mask*,*+sent-_1**sep+*"),
        ("{a} {{It}} {mask}", "*cls**sent_0*_{It}*mask**sep+*"),
    ],
)
def test_both_languages_give_the_same_template_and_its_readable_form(readable: str, lm_bff: str) -> None:
    template = parse_template(lm_bff)
    assert template == parse_template(readable)
    assert parse_template(str(template)) == template


def test_parts_of_a_readable_template() -> None:
    template = parse_template("{a} It was {mask}. {b|lower-first|drop-last}{sep+}  ")
    expected = (
        Text("a"),
        Literal(" It was"),
        Mask(),
        Literal("."),
        Text("b", ("lower-first", "drop-last"), True),
        Separator(True),
    )
    assert template.parts == expected
    assert str(template) == "{a} It was {mask}. {b|lower-first|drop-last}{sep+}"
    assert template.text_parts == (expected[0], expected[4])
    assert template.has_mask
    assert template.uses_text_b


def test_one_space_before_the_mask_is_dropped_and_no_more() -> None:
    assert (
        parse_template("{a} so{mask}")
        == parse_template("{a} so {mask}")
        == parse_template("*cls**sent_0*_so_*mask**sep+*")
    )
    assert parse_template("{a} so  {mask}").parts[1] == Literal(" so ")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [("drop-last", "Is it?", "Is it"), ("lower-first", "Is It", "is It"), ("upper-first", "is", "Is")],
)
def test_filters(name: str, text: str, expected: str) -> None:
    assert Text("a", (name,)).apply(text) == expected
    assert Text("a", (name,)).apply("") == ""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{a} It was.", "has no mask: write {mask}"),
        ("*cls**sent_0*_It_was.*sep+*", "has no mask: write *mask*"),
        ("{a} {mask} {mask}", "has 2 masks"),
        ("It was {mask}.", "has no text: write {a}"),
        ("*cls*It_was*mask*.*sep+*", "has no text: write *sent_0*"),
        ("{c} {mask}", "unknown field {c}"),
        ("{} {mask}", "unknown field {}"),
        ("{a|shout} {mask}", "unknown filter 'shout': use one of drop-last"),
        ("{a|} {mask}", "unknown filter ''"),
        ("{a} {mask|drop-last}", "filter on {mask}"),
        ("{a {mask}", "unbalanced '{' at character 1"),
        ("{a} {mask}}", "unbalanced '}' at character 11"),
        ("{a} {{mask}}", "has no mask"),
        ("*cls**sentx_0**mask**sep+*", "unknown part *sentx_0*"),
        ("*cls**sent_2**mask**sep+*", "uses text 2"),
        ("*cls**sent_0**mask*_now", "must start with *cls* and end with *sep+*"),
        ("*sent_0**mask**sep+*", "must start with *cls*"),
        ("*cls*", "must start with *cls* and end"),
        ("*cls**sent_0*mask*.*sep+*", "unbalanced '*'"),
        ("*cls**cls**sent_0**mask**sep+*", "unknown part *cls*"),
        ("", "has no mask"),
        ("{a}\n", "has no mask"),
    ],
)
def test_errors_are_one_line_and_quote_the_template(text: str, reason: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_template(text)
    message = str(caught.value)
    assert reason in message
    assert repr(text) in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("written", "read"),
    {
        "a new line": ("Review: {a}\nIt was{mask}", "Review: |\nIt was"),
        "backslash n": (r"Review: {a}\nIt was{mask}", "Review: |\nIt was"),
        "LM-BFF's, backslash n": (r"*cls*Review:*+sent_0*\nIt_was*mask**sep+*", "Review:|\nIt was"),
        "Windows": ("Review: {a}\r\nIt was{mask}", "Review: |\nIt was"),
        "several": (r"\n{a}\n\nno\n{mask}", "\n|\n\nno\n"),
        "a backslash before n": (r"see C:\\new {a}{mask}", r"see C:\new|"),
        "another backslash": (r"a\b {a}{mask}", r"a\b|"),
    }.values(),
)
def test_new_lines_are_written_as_such_or_as_backslash_n(written: str, read: str) -> None:
    template = parse_template(written)
    shown = "".join("|" if isinstance(part, Text) else part.text for part in template.parts[:-1])  # type: ignore[union-attr]
    assert shown == read.replace(": |", ":|")
    assert parse_template(str(template)) == template


def test_a_prompt_without_a_mask_when_it_is_allowed() -> None:
    template = parse_template("{a} It was", require_mask=False)
    assert not template.has_mask
    with pytest.raises(UserError, match="2 masks"):
        parse_template("{a} {mask} {mask}", require_mask=False)


_texts = st.builds(
    lambda field, filters, space: " " * space + "{" + "|".join([field, *filters]) + "}",
    st.sampled_from(["a", "b"]),
    st.lists(st.sampled_from(sorted(FILTERS)), max_size=2),
    st.booleans(),
)
_literals = st.text(alphabet="abn. ,?*_\n\\{}é", max_size=6).map(
    lambda text: text.replace("{", "{{").replace("}", "}}")
)


@given(
    st.lists(st.one_of(_texts, _literals, st.just("{sep}"), st.just("{sep+}")), max_size=6),
    _texts,
    st.integers(0, 6),
)
def test_the_readable_form_parses_back(pieces: list[str], text: str, place: int) -> None:
    pieces = [text, *pieces[:place], "{mask}", *pieces[place:]]
    template = parse_template("".join(pieces))
    assert isinstance(template, Template)
    assert parse_template(str(template)) == template
