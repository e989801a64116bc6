"""What each stage's result depends on in our code: the stage's module and every raysel module it imports.

`python -m tests.stage_sources` (make lock) records the present state; the test beside it fails when a stage's sources
change and its version does not. Comments, docstrings and layout do not count.
"""

import ast
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raysel.steps import STAGES

REPOSITORY = Path(__file__).parent.parent
LOCK = Path(__file__).with_name("stage_sources.json")
# How work is scheduled, stored and shown does not change what is computed.
NOT_COUNTED = {
    "raysel", "raysel.cluster", "raysel.errors", "raysel.progress", "raysel.stage", "raysel.storage", "raysel.store"
}  # fmt: skip


def sources_of(stage: str) -> dict[str, str]:
    """The modules that `stage` consists of, by name, each with the hash of its code."""
    pending, found = [STAGES[stage][1].partition(":")[0]], dict[str, str]()
    while pending:
        module = pending.pop()
        path = _path(module)
        if module in found or module in NOT_COUNTED or path is None:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found[module] = hashlib.sha256(json.dumps(_shape(tree)).encode()).hexdigest()[:16]
        pending += _imports(tree)
        for template in sorted(path.parent.glob("*.jinja")):
            name = f"{module.rpartition('.')[0]}/{template.name}"
            found[name] = hashlib.sha256(template.read_bytes()).hexdigest()[:16]
    return dict(sorted(found.items()))


def _path(module: str) -> Path | None:
    base = REPOSITORY.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("raysel"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("raysel"):
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _shape(node: Any) -> Any:
    """The syntax tree as plain data, the same under every Python version: no positions, no docstrings."""
    if isinstance(node, list):
        return [_shape(item) for item in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    body = fields.get("body")
    if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        fields["body"] = body[1:]
    skipped = ("ctx", "kind", "type_comment", "type_ignores")
    return [
        type(node).__name__,
        {k: _shape(v) for k, v in sorted(fields.items()) if k not in skipped and v not in (None, [])},
    ]


def present() -> dict[str, Any]:
    return {stage: {"version": version, "sources": sources_of(stage)} for stage, (version, _) in STAGES.items()}


if __name__ == "__main__":
    LOCK.write_text(json.dumps(present(), indent=1) + "\n", encoding="utf-8")
