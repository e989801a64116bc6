"""The suites that ship with raysel, and how one task file stands for a task in each of many languages."""

from pathlib import Path
from string import Template
from typing import Any

from raysel.errors import UserError

SUITES = Path(__file__).parent
# Where `tasks: demo` is.
DEMO = SUITES.parent.parent / "demo" / "eval"


class SuiteError(UserError):
    """A task file with `words` that cannot be expanded."""


def suites() -> dict[str, Path]:
    """The suites by name, and the folder of task files of each."""
    found = {folder.name: folder for folder in SUITES.iterdir() if folder.is_dir() and any(folder.glob("*.yaml"))}
    return dict(sorted((found | {"demo": DEMO}).items()))


def expanded(file: Path, config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Task name -> its config, one for each language of a task file with `words`.

    `words` maps a language, as it ends the name of its task, to the strings that replace `$name` or `${name}` in all
    strings of the file; `$$` is a dollar. `$lang` is the language itself; a `lang` among the words only says what
    language it is. `languages` lists those that become tasks (default: all of `words`).
    Raises `SuiteError` for a language without words, or a name that no word replaces.
    """
    words, name = config["words"], str(config["task"])
    if not isinstance(words, dict) or not all(isinstance(given, dict) for given in words.values()):
        raise SuiteError(f"task file {file}: words is not a mapping of languages to strings by name")
    shared = {key: value for key, value in config.items() if key not in ("words", "languages", "task")}
    tasks = {}
    for lang in config.get("languages") or list(words):
        if not isinstance(lang, str):
            raise SuiteError(f"task file {file}: language {lang!r} is not a string; quote it (YAML reads no as false)")
        if lang not in words:
            raise SuiteError(f"task file {file}: language {lang} is not among its words")
        given = {"lang": lang} | {key: str(value) for key, value in words[lang].items() if key != "lang"}
        try:
            filled = _filled(shared, given)
        except (KeyError, ValueError) as error:
            raise SuiteError(f"task file {file}, language {lang}: {error} is not among its words") from error
        metadata = {"lang": words[lang].get("lang", lang)} | (filled.get("metadata") or {})
        if "data" in filled:
            filled["data"] = {"files": [lang]} | filled["data"]
        tasks[f"{name}_{lang}"] = filled | {"task": f"{name}_{lang}", "metadata": metadata}
    return tasks


def _filled(value: Any, words: dict[str, str]) -> Any:
    if isinstance(value, str):
        return Template(value).substitute(words)
    if isinstance(value, dict):
        return {key: _filled(item, words) for key, item in value.items()}
    return [_filled(item, words) for item in value] if isinstance(value, list) else value
