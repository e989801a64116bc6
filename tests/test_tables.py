"""Every table that passes between stages: what is missing, renamed or of another type is caught."""

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysel import tables
from raysel.store import Store

PROMISED = {
    **tables.SCHEMAS,
    "vectors": tables.vectors_schema(8, "float32"),
    "sums": tables.sums_schema(3),
}
OTHER_TYPES = [pa.string(), pa.large_string(), pa.int32(), pa.float32(), pa.bool_(), pa.list_(pa.int64()), pa.null()]


@pytest.mark.parametrize("table", sorted(PROMISED))
def test_what_is_promised_passes_also_with_more_columns(table: str) -> None:
    schema = PROMISED[table]
    tables.check(table, schema)
    tables.check(table, pa.schema([*reversed(list(schema)), pa.field("extra", pa.int8())]))


@given(data=st.data(), table=st.sampled_from(sorted(PROMISED)))
def test_a_column_missing_renamed_or_retyped_is_caught(data: st.DataObject, table: str) -> None:
    schema = PROMISED[table]
    index = data.draw(st.integers(0, len(schema) - 1))
    field = schema.field(index)
    retyped = data.draw(st.sampled_from([other for other in OTHER_TYPES if other != field.type]))
    spoilt = [
        schema.remove(index),
        schema.set(index, field.with_name(f"{field.name}_")),
        schema.set(index, field.with_name(field.name.upper())),
        schema.set(index, field.with_type(retyped)),
    ]
    for each in spoilt:
        with pytest.raises(tables.SchemaError, match=f"table {table}: column '{field.name}' is"):
            tables.check(table, each)


@pytest.mark.parametrize("value", [pa.float64(), pa.int8(), pa.string()])
def test_vectors_hold_float16_or_float32(value: pa.DataType) -> None:
    for dtype in ("float16", "float32"):
        tables.check("vectors", tables.vectors_schema(8, dtype))
    index = PROMISED["vectors"].get_field_index("vector")
    for spoilt in (pa.list_(value, 8), pa.list_(pa.float32())):
        schema = PROMISED["vectors"].set(index, pa.field("vector", spoilt))
        with pytest.raises(tables.SchemaError, match="not a fixed-size list of halffloat or float"):
            tables.check("vectors", schema)


def test_a_table_nobody_promised_is_refused() -> None:
    with pytest.raises(tables.SchemaError, match="no table is called 'vektors'; there are"):
        tables.check("vektors", PROMISED["vectors"])


def test_a_wrong_table_never_reaches_the_disk(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    attempt = store.attempt("quota", "0f" * 12)
    with pytest.raises(tables.SchemaError):
        attempt.write_table("quota", 0, pa.table({"lang": ["sw"], "n": [1]}))
    assert store.list_files("") == []
