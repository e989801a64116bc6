"""What every section of an experiment file shares: strictness, and the mark of settings that never change a result."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A section of the experiment file: frozen, and an unknown key is an error."""

    # With defaults validated, a default 16 of a float field is the 16.0 that a written 16 becomes: one fingerprint.
    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), validate_default=True, allow_inf_nan=False
    )

    def without_effect(self) -> list[str]:
        """Settings that were given but change nothing in combination with the others, as `key: reason`."""
        return []


def execution(default: Any, **constraints: Any) -> Any:
    """A field that says only how to execute: it never changes a result, so it stays out of the fingerprint."""
    return Field(default, json_schema_extra={"execution": True}, **constraints)


def counted(value: Any) -> Any:
    """`value` as plain JSON data, less the fields that say only how to execute: what a fingerprint hashes."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        return {name: counted(getattr(value, name)) for name in fields if not is_execution(fields[name])}
    if isinstance(value, dict):
        return {str(key): counted(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [counted(item) for item in value]
    return value


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`; what is not set is left out."""
    if isinstance(value, dict) and value:
        found: dict[str, Any] = {}
        for key, item in value.items():
            found |= flat(item, f"{prefix}.{key}".lstrip("."))
        return found
    return {} if value is None or value in ({}, []) else {prefix: value}


def is_execution(field: Any) -> bool:
    extra = field.json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("execution"))
