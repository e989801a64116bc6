"""The shapes of well-known corpora: which column is what, and where a row's language is said."""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from raysel.corpus.settings import CorpusSettings
from raysel.languages.codes import LanguageError, normalise


@dataclass(frozen=True)
class Layout:
    """columns: our names -> the source's, None for a column that is not taken; input: a column that goes below the
    prompt; lang_from: `column`; or the name of the `file`, of its `folder`, or of whichever of them is a language
    (`path`), where the row has no column for it."""

    preset: str | None = None
    columns: Mapping[str, str | None] = field(default_factory=dict)
    input: str | None = None
    lang_from: str = "column"


PRESETS = {
    # The name, not the code: it tells six varieties of Arabic apart.
    "aya": Layout("aya", {"prompt": "inputs", "response": "targets", "lang": "language"}),
    # An id is that of the item, which every language's file has.
    "bactrian_x": Layout(
        "bactrian_x",
        {"prompt": "instruction", "response": "output", "group": "id", "id": None},
        input="input",
        lang_from="path",
    ),
    "xp3": Layout("xp3", {"prompt": "inputs", "response": "targets", "lang": "language"}, lang_from="folder"),
    "alpaca": Layout("alpaca", {"prompt": "instruction", "response": "output"}, input="input"),
    "sharegpt": Layout("sharegpt", {"messages": "conversations"}),
    "messages": Layout("messages", {"messages": "messages"}),
}


def recognised(columns: Set[str]) -> str | None:
    """The preset that a row with these columns has; None where they bear the names used here, or unknown ones."""
    if {"prompt", "response"} <= columns or "messages" in columns:
        return None
    if {"inputs", "targets"} <= columns:
        return "aya" if "language" in columns and columns & {"language_code", "annotation_type"} else "xp3"
    if {"instruction", "output"} <= columns:
        return "bactrian_x" if {"input", "id"} <= columns and "lang" not in columns else "alpaca"
    return "sharegpt" if "conversations" in columns else None


def says_where_the_text_is(settings: CorpusSettings) -> bool:
    """Whether nothing is left to recognise."""
    return settings.preset is not None or bool(settings.columns.keys() & {"prompt", "response", "messages"})


def layout_of(settings: CorpusSettings, first_columns: Set[str]) -> Layout:
    """How to read rows, whose first one has `first_columns`; what the settings say goes before what the preset has."""
    name = settings.preset if says_where_the_text_is(settings) else recognised(first_columns)
    preset = PRESETS[name] if name is not None else Layout()
    columns = {**preset.columns, **settings.columns}
    lang_from = settings.lang_from or ("column" if "lang" in settings.columns else preset.lang_from)
    if settings.lang_from in ("file", "folder"):
        columns["lang"] = None
    return Layout(preset.preset, columns, preset.input, lang_from)


def language_of_path(location: str, lang_from: str) -> str | None:
    """What the path says the language is, as it is written there; None where it is in a column."""
    if lang_from == "column":
        return None
    folder, _, file = location.partition("?")[0].rpartition("/")
    names = {"file": file.partition(".")[0], "folder": folder.rpartition("/")[2]}
    if lang_from == "path":
        return names["file"] if _is_language(names["file"]) else names["folder"]
    return names[lang_from]


def _is_language(name: str) -> bool:
    try:
        normalise(name)
    except LanguageError:
        return False
    return True
