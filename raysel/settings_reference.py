"""docs/reference.md: every key of an experiment file and of a space file, as the settings themselves say it.

`python -m raysel.settings_reference` prints it (`make docs`). What a key is for is what its class's docstring says
after the key's name and a colon at the start of a line, up to the next such line or a blank one; the rest of the
docstring is about the whole section. Values, default and whether the key counts are the field's own.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import getdoc
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import JsonValue
from pydantic.fields import FieldInfo

from raysel.experiment import MODELS, PATH_KEYS, Experiment
from raysel.settings import Section, is_execution
from raysel.sweep.settings import Space

HEAD = """\
# All keys

Made by `make docs` from the settings of the code; what is changed here by hand is lost.

- [The experiment file](#the-experiment-file): {sections}
- [The space file](#the-space-file) of a sweep

"""
EXPERIMENT = """\
Needed are `model` and `corpus.path`. *Counts* says whether a key is part of the fingerprint of the steps that read it,
so that another value makes these steps anew, and those that follow from them: **yes**; **content**, where it names
files, whose contents count and not the place; or **no**, where it only says how to execute and never changes a result.
"""
NAMES = {
    str: "text",
    bool: "true or false",
    int: "whole number",
    float: "number",
    Any: "anything",
    JsonValue: "anything",
}
LOWER, UPPER = ((Ge, "ge", "at least"), (Gt, "gt", "above")), ((Le, "le", "at most"), (Lt, "lt", "below"))
# What is not in the model: `raysel.experiment` fills it in as it reads a file.
FILLED_IN = {"name": "the file's name"}
CONTENTS = {".".join(keys) for keys in PATH_KEYS} - {"storage"}
PLACES = {path for path in CONTENTS if "template" not in path} | {"storage"}


@dataclass(frozen=True)
class Home:
    """Where a class of settings is described: at the dotted `path`; execution: nothing in it counts."""

    path: str
    execution: bool


def reference() -> str:
    """The whole page, as Markdown."""
    homes = _homes(Experiment)
    sections = ", ".join(
        _link(name) for name, field in Experiment.model_fields.items() if _sections_in(field.annotation)
    )
    parts = [HEAD.format(sections=sections), "## The experiment file\n", EXPERIMENT, *_pages(homes, counts=True)]
    return "\n".join([*parts, "## The space file\n", *_pages(_homes(Space), counts=False)])


def explained(section: type[Section]) -> tuple[str, dict[str, str]]:
    """What the docstring of `section` says of all of it, and of each key by its name in the file."""
    names = {_key(name, field) for name, field in section.model_fields.items()}
    rest, found, key = list[str](), dict[str, str](), None
    for line in (getdoc(section) or "").splitlines():
        name, colon, _ = line.partition(": ")
        if colon and name in names:
            key = name
            found[key] = line.removeprefix(f"{name}: ")
        elif not line.strip() or key is None:
            key = None
            rest.append(line)
        else:
            found[key] += f" {line}"
    prose = " ".join(" ".join(rest).split())
    return prose, found


def _homes(root: type[Section]) -> dict[type[Section], Home]:
    """Each class of settings in `root` at its shortest path, in the order of the file."""
    paths = list(_walk(root, "", False))
    best = {section: min(home.path.count(".") for of, home in paths if of is section) for section, _ in paths}
    found: dict[type[Section], Home] = {}
    for section, home in paths:
        if home.path.count(".") == best[section]:
            found.setdefault(section, home)
    return found


def _walk(section: type[Section], path: str, execution: bool) -> Iterator[tuple[type[Section], Home]]:
    yield section, Home(path, execution)
    for name, field in section.model_fields.items():
        for inner in _sections_in(field.annotation):
            yield from _walk(inner, f"{path}.{name}".lstrip("."), execution or is_execution(field))


def _sections_in(annotation: Any) -> list[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [section for inner in get_args(annotation) for section in _sections_in(inner)]


def _pages(homes: Mapping[type[Section], Home], *, counts: bool) -> Iterator[str]:
    for section, home in homes.items():
        prose, keys = explained(section)
        if home.path:
            yield f"{'#' * (3 + home.path.count('.'))} {home.path}\n"
        yield f"{_linked(prose)}\n"
        yield _row("key", "values", "left out", *(["counts"] if counts else []), "")
        yield _row(*["---"] * (5 if counts else 4))
        for name, field in section.model_fields.items():
            yield _described(_key(name, field), field, home, keys, homes, counts=counts)
        yield ""


def _described(
    key: str,
    field: FieldInfo,
    home: Home,
    keys: Mapping[str, str],
    homes: Mapping[type[Section], Home],
    *,
    counts: bool,
) -> str:
    path = f"{home.path}.{key}".lstrip(".")
    inner = _sections_in(field.annotation)
    if key not in keys and not inner:
        raise LookupError(f"the docstring of the section {home.path or 'at the top'} does not say what {key} is for")
    counted = "no" if home.execution or is_execution(field) else "yes"
    counted = "" if inner else "content" if path in CONTENTS else counted
    values = _values(field.annotation, field.metadata, homes, path)
    may_be_null = NoneType in get_args(field.annotation) and field.default is not None
    left_out = FILLED_IN.get(path) or _default(field)
    facts = [f"`{key}`", values + (", or null" if may_be_null else ""), left_out, *([counted] if counts else [])]
    # Of a section with nothing more to say, what it begins with itself.
    said = keys[key] if key in keys else explained(inner[0])[0].partition(". ")[0].removesuffix(".")
    return _row(*facts, _linked(said))


def _values(annotation: Any, constraints: Sequence[Any], homes: Mapping[type[Section], Home], path: str) -> str:
    """What a key may hold, in words."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        more = [one for item in inner[1:] for one in (item.metadata if isinstance(item, FieldInfo) else [item])]
        return _values(inner[0], [*constraints, *more], homes, path)
    if origin in (Union, UnionType):
        given = [_values(part, constraints, homes, path) for part in inner if part is not NoneType]
        return " or ".join(dict.fromkeys(given))
    if origin is Literal:
        names = [f"`{name}`" for name in inner]
        return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    if origin is list:
        least = any(isinstance(one, MinLen) for one in constraints)
        return f"list of {_values(inner[0], (), homes, '')}{', at least one' if least else ''}"
    if origin is tuple:
        return f"[{', '.join(_values(part, (), homes, '') for part in inner)}]"
    if origin is dict:
        key, value = (_values(part, (), homes, "") for part in inner)
        return f"mapping of {key} to {value}"
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return f"section {_link(homes[annotation].path)}"
    if path in PLACES:
        hub = tuple(path.split("."))[:-1] in (*MODELS, ("corpus",))
        return "path, or a name on the Hugging Face hub" if hub else "path"
    return NAMES[annotation] + _bounds(constraints)


def _bounds(constraints: Sequence[Any]) -> str:
    said = [
        f"{words} {getattr(one, attribute):,}"
        for bounds in (LOWER, UPPER)
        for kind, attribute, words in bounds
        for one in constraints
        if isinstance(one, kind)
    ]
    return f", {' and '.join(said)}" if said else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "needed"
    if isinstance(field.default, Section):
        whole = field.default
        given = {name: getattr(whole, name) for name in type(whole).model_fields if name in whole.model_fields_set}
        return f"`{_yaml(given)}`" if given else ""
    return f"`{_yaml(field.default)}`"


def _yaml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _key(name: str, field: FieldInfo) -> str:
    return field.alias or name


def _link(path: str) -> str:
    return f"[`{path}`](#{path.replace('.', '')})"


def _linked(text: str) -> str:
    return re.sub(r"docs/(\w+\.md)", r"[\1](\1)", text)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    print(reference(), end="")
