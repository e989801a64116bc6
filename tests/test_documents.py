"""What the documents name exists: commands and their options, keys, files, links."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import typer
from markdown_it import MarkdownIt
from pydantic import BaseModel, ValidationError

from raysel.cli import app
from raysel.experiment import Experiment, explain, parse_yaml
from raysel.sweep.settings import Space
from tests.conftest import REPOSITORY

PAGES = [*sorted(REPOSITORY.glob("*.md")), *sorted((REPOSITORY / "docs").rglob("*.md"))]
RAYSEL: Any = typer.main.get_command(app)
SECTIONS = "|".join([*Experiment.model_fields, *Space.model_fields])
DOTTED = re.compile(rf"(?<![\w./~-])(?:{SECTIONS})(?:\.[a-z_][a-z_0-9]*)+(?![\w/(])")
FILES = {"csv", "html", "json", "jsonl", "md", "parquet", "py", "svg", "txt", "yaml"}
REFUSED = "# refused"
FOLDERS = re.compile(r"(?<![\w./-])(?:benchmarks|docs|experiments|jobs|raysel|tests|tune_spaces)/[\w./-]*\w")


def pages(function: Any) -> Any:
    return pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)(function)


def text_of(page: Path) -> str:
    """Without mistakes that are shown to be refused."""
    lines = page.read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if REFUSED not in line and not line.startswith("raysel: "))


def fences(page: Path, language: str) -> list[str]:
    tokens = MarkdownIt().parse(text_of(page))
    return [token.content for token in tokens if token.type == "fence" and token.info == language]


def inline_codes(page: Path) -> list[str]:
    tokens = MarkdownIt("commonmark").enable("table").parse(text_of(page))
    return [part.content for token in tokens for part in token.children or [] if part.type == "code_inline"]


def command_lines(page: Path) -> Iterator[list[str]]:
    """The words of every `raysel` command in a block of shell lines."""
    for block in fences(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words and Path(words[0]).name == "raysel":
                yield words[1:]


def parsed(words: list[str]) -> dict[str, Any]:
    """The arguments of a command as the command line reads them; raises where it would refuse them."""
    name, command, rest = RAYSEL.resolve_command(RAYSEL.context_class(RAYSEL), words)
    return dict(command.make_context(name, rest).params)


def has(root: Any, keys: list[str]) -> bool:
    """Whether a section, or what a key holds, knows the dotted key; a mapping of the user's own knows all."""
    if not keys:
        return True
    if isinstance(root, type) and issubclass(root, BaseModel):
        names = {field.alias or name: field for name, field in root.model_fields.items()}
        return keys[0] in names and has(names[keys[0]].annotation, keys[1:])
    return get_origin(root) is dict or any(has(inner, keys) for inner in get_args(root))


@pages
def test_commands_are_there(page: Path) -> None:
    for words in command_lines(page):
        parsed(words)
    for code in inline_codes(page):
        if match := re.match(r"raysel ([a-z][a-z-]*)", code):
            assert match[1] in RAYSEL.commands, code
            options = {option for parameter in RAYSEL.commands[match[1]].params for option in parameter.opts}
            assert set(re.findall(r"(?<![\w-])--?[a-z-]+", code)) <= options, code


@pages
def test_keys_are_there(page: Path) -> None:
    named = {key for key in DOTTED.findall(text_of(page)) if key.rpartition(".")[2] not in FILES}
    named |= {
        setting.partition("=")[0] for words in command_lines(page) for setting in parsed(words).get("overrides") or []
    }
    assert [
        key for key in sorted(named) if not has(Experiment, key.split(".")) and not has(Space, key.split("."))
    ] == []


@pages
def test_blocks_of_settings_are_read(page: Path) -> None:
    for block in fences(page, "yaml"):
        data = parse_yaml(block, page.name)
        root: type[BaseModel] = Experiment if set(data) <= set(Experiment.model_fields) else Space
        if not set(data) <= set(root.model_fields):
            continue  # a task file
        try:
            root.model_validate({"name": "x", "model": {"path": "x"}} | data if root is Experiment else data)
        except ValidationError as error:
            pytest.fail(f"{explain(error, page.name, root)}\n{block}")


@pages
def test_files_and_links_are_there(page: Path) -> None:
    missing = [path for path in FOLDERS.findall(text_of(page)) if not (REPOSITORY / path).exists()]
    assert missing == []
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        file, _, anchor = target.partition("#")
        if "://" in target:
            continue
        found = (page.parent / file).resolve() if file else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pages
def test_make_has_the_targets(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of(REPOSITORY / "Makefile"), flags=re.MULTILINE))
    lines = [line.split("#")[0] for block in fences(page, "bash") for line in block.splitlines()]
    named = [code for code in [*inline_codes(page), *lines] if code.startswith("make ")]
    assert {word for code in named for word in code.split()[1:] if "=" not in word} <= targets


@pytest.mark.parametrize(
    ("test", "text"),
    [
        (test_commands_are_there, "```bash\nraysel rnu mine.yaml\n```"),
        (test_commands_are_there, "```bash\nraysel inspect mine.yaml --number 3\n```"),
        (test_commands_are_there, "```bash\nraysel plan   # of what?\n```"),
        (test_commands_are_there, "`raysel gc --dry`"),
        (test_keys_are_there, "Set `preselect.roh`."),
        (test_keys_are_there, "training.data.sample"),
        (test_keys_are_there, "```bash\nraysel run mine.yaml --set name=a --set selection.metod=kmc\n```"),
        (test_blocks_of_settings_are_read, "```yaml\npreselect: {roh: 0.2}\n```"),
        (test_blocks_of_settings_are_read, "```yaml\npreselect: {rho: 2}\n```"),
        (test_blocks_of_settings_are_read, "```yaml\nparameters: {a.b: {grids: [1]}}\nobjective: {metric: acc}\n```"),
        (test_files_and_links_are_there, "experiments/dmeo.yaml"),
        (test_files_and_links_are_there, "[a page](nowhere.md)"),
        (test_files_and_links_are_there, "# One\n\n[a heading](#two)"),
        (test_make_has_the_targets, "`make dmeo`"),
    ],
)
def test_what_is_not_there_is_found(tmp_path: Path, test: Any, text: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises((Exception, pytest.fail.Exception)):
        test(page)
