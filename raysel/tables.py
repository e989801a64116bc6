"""The Arrow schemas of the tables that pass between stages, checked whenever a shard is written.

A table may carry more columns than its schema names; none may be missing, renamed or of another type.
Vector-valued columns are fixed-size lists whose width is known only at run time: `vectors_schema`, `sums_schema`.
"""

import pyarrow as pa

CORPUS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("lang", pa.string(), nullable=False),
        pa.field("lang_raw", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("response", pa.string(), nullable=False),
        # JSON text of the [{"role", "content"}, ...] before the prompt, a system message only first; null for none.
        pa.field("history", pa.string()),
        pa.field("task", pa.string()),
        pa.field("source", pa.string(), nullable=False),
        pa.field("group", pa.string()),
        pa.field("script", pa.string(), nullable=False),
    ]
)
# What the audit found in a row; the other row (or evaluation item) is the one that it repeats.
FINDINGS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("lang", pa.string(), nullable=False),
        pa.field("finding", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("other_id", pa.string()),
        pa.field("other_lang", pa.string()),
        pa.field("score", pa.float64()),
    ]
)
IDENTIFIED = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("lang", pa.string(), nullable=False),
        # Null where there is no text to identify.
        pa.field("found_lang", pa.string()),
        # That the text is in the language of its label; null where the model does not know that language.
        pa.field("label_probability", pa.float64()),
    ]
)
SCORES = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("lang", pa.string(), nullable=False),
        pa.field("separability", pa.float64(), nullable=False),
        pa.field("a", pa.float64(), nullable=False),
        pa.field("b", pa.float64(), nullable=False),
        pa.field("nearest_lang", pa.string(), nullable=False),
    ]
)
QUOTA = pa.schema(
    [
        pa.field("lang", pa.string(), nullable=False),
        pa.field("task", pa.string()),
        pa.field("count", pa.int64(), nullable=False),
    ]
)
# The rows of the items that every language has; `place` is the item's in the draw.
PARALLEL = pa.schema([pa.field("id", pa.string()), pa.field("lang", pa.string()), pa.field("place", pa.int64())])
CHOSEN = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("lang", pa.string(), nullable=False),
        pa.field("rank", pa.int64(), nullable=False),
        pa.field("score", pa.float64(), nullable=False),
        pa.field("method", pa.string(), nullable=False),
    ]
)
# What a selector's target is made of; LESS goes by the subtask that a sample helps most.
TARGET = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("lang", pa.string(), nullable=False),
        pa.field("subtask", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("response", pa.string(), nullable=False),
        pa.field("history", pa.string()),
    ]
)
# DSIR's log importance weights, the influences of LESS: what rows are ranked by, each on its own.
ROW_SCORES = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("lang", pa.string(), nullable=False),
        pa.field("score", pa.float64(), nullable=False),
    ]
)
# A choice of rows (everything, or a selector's from its candidates) in a language, or in all of them (lang null).
# corpus_rows: what coverage is the mean distance of; ngrams_1 and ngrams_2: at how many the distinct share is expected;
# sampled: not every row was looked at for these.
DIVERSITY = pa.schema(
    [
        pa.field("method", pa.string(), nullable=False),
        pa.field("candidates", pa.string(), nullable=False),
        pa.field("lang", pa.string()),
        pa.field("n", pa.int64(), nullable=False),
        pa.field("corpus_rows", pa.int64(), nullable=False),
        pa.field("separability", pa.float64()),
        pa.field("similarity", pa.float64()),
        pa.field("distinct_1", pa.float64()),
        pa.field("distinct_2", pa.float64()),
        pa.field("ngrams_1", pa.int64()),
        pa.field("ngrams_2", pa.int64()),
        pa.field("coverage", pa.float64()),
        pa.field("mean_tokens", pa.float64()),
        pa.field("sampled", pa.bool_(), nullable=False),
    ]
)
ORDER = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("position", pa.int64(), nullable=False),
        pa.field("lang", pa.string(), nullable=False),
        pa.field("task", pa.string()),
        pa.field("level", pa.int64()),
    ]
)
# What a loss-aware curriculum trains on has no position beforehand: level after level, in the order of `place`.
QUEUES = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("place", pa.int64(), nullable=False),
        pa.field("lang", pa.string(), nullable=False),
        pa.field("task", pa.string()),
        pa.field("level", pa.int64(), nullable=False),
    ]
)
TRAINED_ORDER = ORDER.append(pa.field("step", pa.int64(), nullable=False))
# Beside what these two tables promise, the rows of an encoder-decoder have what its encoder takes in; `input_ids` are
# then what its decoder does.
SOURCE_IDS = pa.field("source_ids", pa.list_(pa.int32()), nullable=False)
QUEUED_TOKENS = pa.schema(
    [
        pa.field("place", pa.int64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("lang", pa.string(), nullable=False),
        pa.field("task", pa.string()),
        pa.field("level", pa.int64(), nullable=False),
        pa.field("input_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("labels", pa.list_(pa.int32()), nullable=False),
    ]
)
TOKENS = pa.schema(
    [
        pa.field("step", pa.int64(), nullable=False),
        pa.field("input_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("labels", pa.list_(pa.int32()), nullable=False),
        pa.field("segment_lengths", pa.list_(pa.int32()), nullable=False),
        pa.field("positions", pa.list_(pa.int64()), nullable=False),
        pa.field("ids", pa.list_(pa.string()), nullable=False),
        pa.field("langs", pa.list_(pa.string()), nullable=False),
        pa.field("tasks", pa.list_(pa.string()), nullable=False),
        pa.field("levels", pa.list_(pa.int64()), nullable=False),
    ]
)
RESULTS = pa.schema(
    [
        pa.field("model", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("lang", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("metric", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("ci_low", pa.float64(), nullable=False),
        pa.field("ci_high", pa.float64(), nullable=False),
        pa.field("n", pa.int64(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
    ]
)
ITEMS = pa.schema(
    [
        pa.field("model", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("lang", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("item", pa.int64(), nullable=False),
        pa.field("metric", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("answer", pa.string(), nullable=False),
        # The item's name in all languages of a parallel task; null where it has no counterpart.
        pa.field("group", pa.string()),
    ]
)

SCHEMAS: dict[str, pa.Schema] = {
    "corpus": CORPUS,
    "heldout": CORPUS,
    "findings": FINDINGS,
    "identified": IDENTIFIED,
    "scores": SCORES,
    "quota": QUOTA,
    "parallel": PARALLEL,
    "pool": CHOSEN,
    "target": TARGET,
    "importance": ROW_SCORES,
    "influence": ROW_SCORES,
    "subset": CHOSEN,
    "diversity": DIVERSITY,
    "order": ORDER,
    "queues": QUEUES,
    "trained_order": TRAINED_ORDER,
    "tokens": TOKENS,
    "queued_tokens": QUEUED_TOKENS,
    "heldout_tokens": TOKENS,
    "results": RESULTS,
    "items": ITEMS,
}
VECTOR_TYPES = {"float16": pa.float16(), "float32": pa.float32()}
VECTOR_NAMES = {value: name for name, value in VECTOR_TYPES.items()}
VECTOR_COLUMNS = {
    "vectors": ("vector", tuple(VECTOR_TYPES.values())),
    "sums": ("sums", (pa.float64(),)),
    "gradients": ("gradient", (pa.float16(),)),
}


def vectors_schema(width: int, dtype: str) -> pa.Schema:
    """Schema of `vectors`: one `width`-dimensional hidden state per sample, `dtype` float16 or float32."""
    value = VECTOR_TYPES[dtype]
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("lang", pa.string(), nullable=False),
            pa.field("vector", pa.list_(value, width), nullable=False),
            pa.field("n_tokens", pa.int32(), nullable=False),
            pa.field("truncated", pa.bool_(), nullable=False),
            pa.field("lang_raw", pa.string(), nullable=False),
            pa.field("task", pa.string()),
            pa.field("script", pa.string(), nullable=False),
            pa.field("fed_hash", pa.uint64(), nullable=False),
        ]
    )


def sums_schema(clusters: int) -> pa.Schema:
    """Schema of `sums`: summed Euclidean distances of a sample to each of `clusters` clusters."""
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("lang", pa.string(), nullable=False),
            pa.field("sums", pa.list_(pa.float64(), clusters), nullable=False),
        ]
    )


def gradients_schema(width: int) -> pa.Schema:
    """Schema of `gradients`: a sample's projected gradient at one checkpoint, of length 1, and its subtask if it is of
    a target."""
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("lang", pa.string(), nullable=False),
            pa.field("subtask", pa.string()),
            pa.field("gradient", pa.list_(pa.float16(), width), nullable=False),
        ]
    )


class SchemaError(RuntimeError):
    """A stage tried to write a table that is not what the next stage was promised."""


def check(table: str, schema: pa.Schema) -> None:
    """Raise `SchemaError` unless `schema` has every column that `table` promises, with its type."""
    for field in _promised(table, schema):
        if field.name not in schema.names:
            raise SchemaError(f"table {table}: column {field.name!r} is missing; it has {schema.names}")
        if schema.field(field.name).type != field.type:
            raise SchemaError(
                f"table {table}: column {field.name!r} is {schema.field(field.name).type}, not {field.type}"
            )


def _promised(table: str, schema: pa.Schema) -> pa.Schema:
    """The schema of `table`; for a vector-valued column, of the width and the width of number that `schema` has."""
    if table in SCHEMAS:
        return SCHEMAS[table]
    if table not in VECTOR_COLUMNS:
        raise SchemaError(f"no table is called {table!r}; there are {[*SCHEMAS, *VECTOR_COLUMNS]}")
    column, values = VECTOR_COLUMNS[table]
    if column not in schema.names:
        raise SchemaError(f"table {table}: column {column!r} is missing; it has {schema.names}")
    found = schema.field(column).type
    if not pa.types.is_fixed_size_list(found) or found.value_type not in values:
        allowed = " or ".join(str(value) for value in values)
        raise SchemaError(f"table {table}: column {column!r} is {found}, not a fixed-size list of {allowed}")
    width = found.list_size
    match table:
        case "vectors":
            return vectors_schema(width, VECTOR_NAMES[found.value_type])
        case "gradients":
            return gradients_schema(width)
    return sums_schema(width)
