"""CSV and TSV as spreadsheets, pandas and R write them: separators, quotes, empty columns, long cells; what is guessed is said."""

import pytest
from label_files import heard

from lmntk.errors import UserError
from lmntk.tasks import Columns, Example, read_table

XY = [Example("x, or y", None, 0), Example('say "z"', None, 1)]


def read(tmp_path, name, content):
    (tmp_path / name).write_bytes(content.encode())
    examples, lines = heard(lambda: read_table(tmp_path / name))
    return examples, [line.removeprefix(f"{tmp_path / name}: ") for line in lines]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", 'text,label\r\n"x, or y",0\r\n"say ""z""",1\r\n', []),
        ("a.csv", 'text;label\nx, or y;0\n"say ""z""";1\n', ["read as cells between semicolons"]),
        ("a.csv", 'text\tlabel\nx, or y\t0\n"say ""z"""\t1\n', ["read as cells between tabs"]),
        ("a.tsv", 'text,label\n"x, or y",0\n"say ""z""",1\n', ["read as cells between commas"]),
        ("a.tsv", 'text\tlabel\nx, or y\t0\nsay "z"\t1\n', []),
        ("a.tsv", 'text\tlabel\nx, or y\t0\n"say ""z"""\t1\n', ["cells in double quotes are read without"]),
        ("a.tsv", '"text"\t"label"\n"x, or y"\t"0"\n"say ""z"""\t"1"\n', ["cells in double quotes"]),
        ("a.tsv", 'text\tlabel\n"x, or y"\t0\n"say ""z"""\t1\n', ["cells in double quotes"]),
        ("a.csv", 'sep=;\ntext;label\nx, or y;0\n"say ""z""";1\n', ["line 1 says that cells end at ';'"]),
        ("a.csv", '"sep=|"\r\ntext|label\r\nx, or y|0\r\n"say ""z"""|1\r\n', ["line 1 says"]),
        ("a.csv", 'text,label,,\n"x, or y",0,,\n"say ""z""",1,,\n', ["2 columns at the end without a name"]),
        ("a.csv", 'text,label,\n"x, or y",0\n"say ""z""",1, \n', ["1 column at the end without a name"]),
        ("a.csv", 'text,label\n"x, or y",0,,\n"say ""z""",1\n', []),
        ("a.csv", ',text,label\n0,"x, or y",0\n1,"say ""z""",1\n', []),  # pandas' row numbers
        # commas in the header, and quotes that no commas end
        ("a.csv", 'text;label;note, if any\n"x, or y";0;\n"say ""z""";1;\n', ["read as cells between semi"]),
        ("a.csv", '\n\ntext;label\n\nx, or y;0\n"say ""z""";1\n\n', ["read as cells between semicolons"]),
    ],
)
def test_what_a_file_may_look_like(tmp_path, name, content, said):
    examples, lines = read(tmp_path, name, content)
    assert examples == XY
    assert len(lines) == len(said) and all(
        line.startswith(start) for line, start in zip(lines, said, strict=True)
    )


@pytest.mark.parametrize(
    ("content", "texts", "said"),
    [
        ('text\tlabel\n"a"\t0\nb\t1\n', ['"a"', "b"], 1),  # quotes that nothing needs are text
        ('text\tlabel\n"a\t0\nb"\t1\n', ['"a', 'b"'], 0),
        ('text\tlabel\n"a" and b\t0\n"c"\t1\n', ['"a" and b', '"c"'], 1),
        ('text\tlabel\n"a, b"\t0\nc, d\t1\n', ['"a, b"', "c, d"], 1),  # Excel would have quoted both
        ('text\tlabel\n"a, b"\t0\nc d\t1\n', ["a, b", "c d"], 1),
        ('text\tlabel\n"first\nsecond ""line"""\t0\nb\t1\n', ['first\nsecond "line"', "b"], 1),
        ('text\tlabel\n"a\tb"\t0\nc\t1\n', ["a\tb", "c"], 1),
    ],
)
def test_quotes_in_tsv_are_read_where_they_are_used_throughout(tmp_path, content, texts, said):
    examples, lines = read(tmp_path, "a.tsv", content)
    assert [example.text_a for example in examples] == texts
    assert len(lines) == said


def test_cells_beyond_the_limit_of_the_csv_module(tmp_path):
    long = "word " * 40_000
    for name, separator in (("a.csv", ","), ("b.csv", ";"), ("c.tsv", "\t")):
        examples, _ = read(
            tmp_path, name, f'text{separator}label\n"{long}"{separator}0\n"{long}""x"{separator}1\n'
        )
        assert [example.text_a for example in examples] == [long, f'{long}"x']


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label,,\nx,0,,\ny,1,z,\n", r"line 3: 4 cells for 2 columns \(text, label\)"),
        (
            "text;label\nx;0\ny;1;2\n",
            r"line 3: 3 cells for 2 columns",
        ),
        ("text,label\nx,0\ny\n", "line 3: 1 cells for 2 columns"),
        ("sep=;\ntext,label\nx,0\n", "no column 'label'; the columns are text,label"),
    ],
)
def test_mistakes(tmp_path, content, message):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        read_table(tmp_path / "a.csv")


def test_a_single_column_is_no_riddle(tmp_path):
    (tmp_path / "a.csv").write_text('text\n"x; y, z"\n""\nplain\n')
    examples, lines = heard(lambda: read_table(tmp_path / "a.csv", require_label=False, columns=Columns()))
    assert [example.text_a for example in examples] == ["x; y, z", "", "plain"] and lines == []
