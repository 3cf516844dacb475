"""Policy files: YAML or JSON, the form of ``SecurityPolicy.to_dict``. The only place of this package that
reads a file.

A key given twice is an error here: both formats would silently take the last, and a second ``deny_out`` that
replaces the first opens what the first had closed.
"""

import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from rules.errors import PolicyError
from rules.policy import SecurityPolicy

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is ten times as fast, where it was built


def load_policy(path: Path | str) -> SecurityPolicy:
    """Read a policy file: JSON if its name ends in ``.json``, else YAML. Raises ``PolicyError`` for whatever
    is wrong."""
    file = Path(path)
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise PolicyError([f"{path}: {error.strerror}; name a file that can be read"]) from error
    return parse_policy(raw, is_json=file.suffix.lower() == ".json", name=str(path))


def parse_policy(raw: bytes | str, *, is_json: bool = False, name: str = "policy") -> SecurityPolicy:
    """Read the text of a policy file; ``name`` is what errors about the text as a whole begin with."""
    try:
        text = raw if isinstance(raw, str) else raw.decode("utf-8-sig")
        data = _read_json(text) if is_json else _read_yaml(text)
    except UnicodeDecodeError as error:
        raise PolicyError([f"{name}: byte {error.start} is not UTF-8; save the file as UTF-8"]) from error
    except RecursionError as error:
        raise PolicyError([f"{name}: nested too deep; a policy has three levels"]) from error
    except (_DuplicateKey, json.JSONDecodeError, yaml.YAMLError) as error:
        raise PolicyError([f"{name}: {_syntax_fault(error)}"]) from error
    if data is None:
        raise PolicyError(
            [f"{name}: the file is empty, which would allow everything; for that write network: null"]
        )
    return SecurityPolicy.from_dict(data)


def dump_policy(policy: SecurityPolicy) -> str:
    """Write ``policy`` as YAML that ``parse_policy`` gives back."""
    text: str = yaml.safe_dump(policy.to_dict(), sort_keys=False, allow_unicode=True)
    return text


class _DuplicateKey(Exception):
    """A mapping names a key twice."""


def _read_json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_without_duplicates)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _DuplicateKey(f"the key {key!r} is given twice; merge the two")
        found[key] = value
    return found


def _read_yaml(text: str) -> Any:
    return yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a safe loader, made stricter


class _StrictLoader(_Loader):  # type: ignore[misc, valid-type]  # one of two classes, chosen above
    """The safe loader, but a key stands once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys: set[object] = set()
        for key_node, _ in node.value:
            key = getattr(key_node, "value", None)
            if isinstance(key, str) and key in keys:
                line = key_node.start_mark.line + 1
                raise _DuplicateKey(f"line {line}: the key {key!r} is given twice; merge the two")
            if isinstance(key, str):
                keys.add(key)
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return mapping


def _syntax_fault(error: Exception) -> str:
    """Say where the text stops being YAML or JSON, on one line."""
    if isinstance(error, json.JSONDecodeError):
        return f"line {error.lineno}, column {error.colno}: {error.msg}; mend the JSON there"
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return " ".join(str(error).split())
    problem = " ".join(str(getattr(error, "problem", None) or "no YAML").split())
    mend = "put an entry that begins with * [ & ! or holds : and a space in quotes"
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}; {mend}"
