"""The messages of a source's row, in whichever shape the source has them: two columns, or a list of messages."""

import json
from typing import Any

from raysel.errors import UserError

# Hugging Face's names, and ShareGPT's.
ROLES = {"system": "system", "user": "user", "assistant": "assistant", "human": "user", "gpt": "assistant"}


class ConversationError(UserError):
    """Messages that are no conversation a model could learn an answer from."""


def conversation(messages: Any, prompt: Any, response: Any, system: Any) -> list[dict[str, Any]]:
    """The messages of one row as {"role", "content"}: a system message if any, then user and assistant in turn.

    messages (a list, or its JSON text) takes the place of prompt and response unless it is None; a blank system text is
    none. Contents are as the source has them, so they may be no text. Raises `ConversationError`.
    """
    if messages is None:
        found = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
    else:
        found = [_message(entry) for entry in _listed(messages)]
        if found and found[0]["role"] == "system" and _blank(found[0]["content"]):
            del found[0]
        _refuse_out_of_turn([message["role"] for message in found])
    if _blank(system):
        return found
    if found[0]["role"] == "system":
        raise ConversationError("a system text beside messages that begin with a system message: keep one of them")
    return [{"role": "system", "content": system}, *found]


def _listed(messages: Any) -> list[Any]:
    if isinstance(messages, str):
        try:
            messages = json.loads(messages)
        except ValueError as error:
            raise ConversationError("messages that are neither a list nor the JSON text of one") from error
    if not isinstance(messages, list):
        raise ConversationError(f"messages that are no list (found: {type(messages).__name__})")
    return messages


def _message(entry: Any) -> dict[str, Any]:
    for role, content in (("role", "content"), ("from", "value")):
        # A Parquet struct has every field in every row, null where it is absent.
        if isinstance(entry, dict) and entry.get(role) is not None and content in entry:
            break
    else:
        found = ", ".join(sorted(map(str, entry))) if isinstance(entry, dict) else type(entry).__name__
        raise ConversationError(f'a message that is neither {{"role", "content"}} nor {{"from", "value"}} ({found})')
    name = entry[role]
    if not isinstance(name, str) or name not in ROLES:
        raise ConversationError(f"a message of the role {name!r} (known: {', '.join(ROLES)})")
    return {"role": ROLES[name], "content": entry[content]}


def _refuse_out_of_turn(roles: list[str]) -> None:
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if turns[-1:] == ["user"]:
        raise ConversationError("messages that end with the user's: the last one must be the assistant's")
    if not turns or turns != ["user", "assistant"] * (len(turns) // 2):
        raise ConversationError(
            "messages out of turn: a system message if any, then user and assistant in turn, the assistant's last"
        )


def _blank(text: Any) -> bool:
    return text is None or (isinstance(text, str) and not text.strip())
