"""Changing a JSON document: merging (RFC 7386) and patching (RFC 6902), with bounds against hostile patches."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from studio_runner.errors import StudioRunnerError
from studio_runner.messages.jsontext import MAX_DEPTH, members, nested_deeper

_OPERATIONS = frozenset({"add", "remove", "replace", "move", "copy", "test"})  # jsonpatch knows one more of its own
MOST_OPERATIONS = 1000
"""In one patch."""
MOST_MEMBERS = 10_000
"""Of the value that one operation adds, moves or copies: a short line must not keep the runner busy for long."""

_INDEX = re.compile(r"[0-9]{1,9}")


class PatchRefusedError(StudioRunnerError):
    """A patch that is not valid, does not fit the document, or touches what it must not."""


def merge(target: dict[str, Any], patch: Mapping[str, Any]) -> None:
    """Merge `patch` into `target`, in place: objects merge, other values replace, null removes. The arrays of
    `patch` become part of `target`; its objects do not."""
    waiting = [(target, patch)]
    while waiting:
        into, change = waiting.pop()
        for name, value in change.items():
            if value is None:
                into.pop(name, None)
            elif isinstance(value, dict):
                inner = into.get(name)
                if not isinstance(inner, dict):
                    inner = into[name] = {}
                waiting.append((inner, value))
            else:
                into[name] = value


def apply_patch(
    document: dict[str, Any], patch: list[Any], protected: str, room: int
) -> tuple[dict[str, Any], int]:
    """The patched document, and the bytes that its `copy` operations added (at most `room`).

    `document` stays as it is: all of a patch applies, or nothing. Below the member `protected` only `add` may
    work.
    """
    import jsonpatch  # noqa: PLC0415  few scripts print patches, and the import costs more than all else here

    if len(patch) > MOST_OPERATIONS:
        raise PatchRefusedError(f"a patch of more than {MOST_OPERATIONS} operations")
    patching = _Patching(document, protected, room)
    try:
        for operation in patch:
            patching.prepare(operation)
            jsonpatch.JsonPatch([operation]).apply(patching.document, in_place=True)
    # jsonpatch has its own errors for the defects that it foresees, and Python's for some that it does not
    except (
        jsonpatch.JsonPatchException,
        jsonpatch.JsonPointerException,
        TypeError,
        LookupError,
        ValueError,
    ) as error:
        raise PatchRefusedError(str(error)) from error
    return patching.document, patching.copied


class _Patching:
    """A document that is being patched: what the operations change is copied first, once, and nothing else."""

    def __init__(self, document: dict[str, Any], protected: str, room: int) -> None:
        self.document = dict(document)
        self.copied = 0
        self._protected = protected
        self._room = room
        self._own: dict[int, Any] = {}  # by id; held here, so that no id is given away again

    def prepare(self, operation: Any) -> None:
        """Check the operation, and copy what it will change."""
        if not isinstance(operation, dict) or operation.get("op") not in _OPERATIONS:
            raise PatchRefusedError(f"an operation is not one of {', '.join(sorted(_OPERATIONS))}")
        op, path = operation["op"], _steps(operation.get("path"))
        self._check_place(path, op)
        self._copy_on_the_way(path)
        value = operation.get("value")
        if op in {"copy", "move"}:
            origin = _steps(operation.get("from"))
            self._check_place(origin, op)
            self._copy_on_the_way(origin)
            value = self._value_at(origin)
        self._check_size(value, len(path))
        if op == "copy":
            self._charge(value)

    def _check_place(self, path: Sequence[str], op: str) -> None:
        if not path:
            raise PatchRefusedError("the whole document is not to be patched")
        if path[0] == self._protected and (op != "add" or len(path) == 1):
            raise PatchRefusedError(f"below /{self._protected} only add is allowed")

    def _check_size(self, value: Any, depth: int) -> None:
        if members(value, MOST_MEMBERS) > MOST_MEMBERS:
            raise PatchRefusedError(f"an operation takes a value of more than {MOST_MEMBERS} members")
        if nested_deeper(value, MAX_DEPTH - depth):
            raise PatchRefusedError(f"the patch nests deeper than {MAX_DEPTH} levels")

    def _charge(self, value: Any) -> None:
        """A few short operations can double a document many times over."""
        self.copied += len(json.dumps(value))
        if self.copied > self._room:
            raise PatchRefusedError("the document has no room for the copy")

    def _copy_on_the_way(self, path: Sequence[str]) -> None:
        node: Any = self.document
        for name in path[:-1]:
            member = _member(node, name)
            inner = None if member is None else node[member]
            if not isinstance(inner, dict | list):
                return  # jsonpatch will say what is wrong with that path
            if id(inner) not in self._own:
                inner = inner.copy()
                self._own[id(inner)] = node[member] = inner
            node = inner

    def _value_at(self, path: Sequence[str]) -> Any:
        node: Any = self.document
        for name in path:
            member = _member(node, name)
            if member is None:
                return None
            node = node[member]
        return node


def _steps(pointer: object) -> list[str]:
    """The names that a JSON pointer (RFC 6901) leads along."""
    if not isinstance(pointer, str) or not pointer.startswith("/"):
        return []
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer[1:].split("/")]


def _member(node: Any, name: str) -> str | int | None:
    """The key or index of the member of `node` that is called `name`; None when it has none."""
    if isinstance(node, dict):
        return name if name in node else None
    if isinstance(node, list) and _INDEX.fullmatch(name) and int(name) < len(node):
        return int(name)
    return None
