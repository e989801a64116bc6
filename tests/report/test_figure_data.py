"""The tables of figures: read back equal, and dead in a spreadsheet."""

import base64
import csv
import io
import re

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markupsafe import Markup

from raysel.report.figure_data import DataFigure, read_csv, write_csv

TEXTS = st.one_of(st.text(), st.text("'=+-@,;|\t\r\n\" 1.e＝nai", max_size=12))
VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), TEXTS)
HOSTILE = [
    *("=1+1", "+1", "-1", "@SUM(A1)", "\t=1+1", "\r=1", " =1", "＝1+1", "'=1", "''", "'", "a'b"),
    *("x;=1+1", "x, '-y", 'x"\n @y', "a\r\nb", "<b>", "1_000", "٣", "مرحبا"),
    *("", "1", "-0.0", "1e-07", "nan", "inf", "-inf", "true", "false"),
]  # fmt: skip


def same(found, wanted):
    return [[(type(v), v) for v in row.items()] for row in found] == [
        [(type(v), v) for v in row.items()] for row in wanted
    ]


@given(st.lists(TEXTS, min_size=1, max_size=3, unique=True), st.data())
@settings(max_examples=60)
def test_rows_are_read_back_equal(columns, data):
    cells = st.tuples(*[VALUES] * len(columns))
    rows = [dict(zip(columns, line, strict=True)) for line in data.draw(st.lists(cells, min_size=1, max_size=4))]
    assert same(read_csv(write_csv(rows)), rows)


@given(TEXTS, st.sampled_from(",;|\t"))
@example("x;=1+1", ";")
@example('x"\n=1', ";")
def test_no_text_begins_a_formula_whatever_separates_cells(text, separator):
    # Quotes that stand inside a cell of another dialect are characters: read both with and without their meaning.
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_NONE):
        found = csv.reader(io.StringIO(write_csv([{"a": text}]), newline=""), delimiter=separator, quoting=quoting)
        assert not [cell for line in found for cell in line if re.match(r"[\s\"]*[=+\-@＝＋－＠]", cell)]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_stay_texts(text):
    assert same(read_csv(write_csv([{text: text, "n": 1}])), [{text: text, "n": 1}])


def test_pandas_reads_the_same_numbers():
    rows = [{"lang": "sw", "x": 0.1 + 0.2, "n": 3, "b": True}, {"lang": "th", "x": None, "n": -4, "b": False}]
    found = pd.read_csv(io.StringIO(write_csv(rows)), float_precision="round_trip")
    assert found["x"][0] == 0.1 + 0.2
    assert found["x"].isna().tolist() == [False, True]
    assert found[["lang", "n", "b"]].to_dict("records") == [
        {"lang": "sw", "n": 3, "b": True},
        {"lang": "th", "n": -4, "b": False},
    ]


def test_other_types_and_other_columns_are_refused():
    with pytest.raises(TypeError, match="found list"):
        write_csv([{"a": [1]}])
    with pytest.raises(ValueError, match="columns"):
        write_csv([{"a": 1}, {"b": 1}])


def test_a_figure_draws_what_its_csv_says():
    def draw(name, rows):
        return Markup(f"{name} {sum(row['n'] for row in rows)}")

    figure = DataFigure.of("sum", [{"n": 1}, {"n": 2}], draw)
    assert figure.svg == "sum 3"
    head, _, body = figure.data_uri.partition(",")
    assert head == "data:text/csv;charset=utf-8;base64"
    assert base64.b64decode(body).decode() == figure.csv == "n\r\n1\r\n2\r\n"
