"""Changing a JSON document: merging (RFC 7386) and patching (RFC 6902), with bounds against hostile patches."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from studio_runner.errors import StudioRunnerError
from studio_runner.messages.jsontext import MAX_DEPTH, members, nested_deeper

_OPERATIONS = frozenset({"add", "remove", "replace", "move", "copy", "test"})
MOST_OPERATIONS = 1000
"""In one patch."""
MOST_MEMBERS = 10_000
"""Of the value that one operation adds, moves or copies: a short line must not keep the runner busy for long."""

EFFORT = 2 << 20
"""Members moved and bytes copied by all patches of one document, the refused ones included. Short lines can ask for
both without end."""
EFFORT_AT_ONCE = 1 << 19
"""The same of one patch: nothing else happens in the meantime. No less than half of what a document may hold, which
may be copied."""
_SHIFTED = 128
"""So many elements of an array make room for another, or close ranks, in the time that one member is moved."""

_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")
_NO_ESCAPE = re.compile(r"~(?![01])")
_ABSENT: Any = object()


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


class Patcher:
    """Patches `document`, in place. Below its member `protected` only `add` works."""

    def __init__(self, document: dict[str, Any], protected: str) -> None:
        self._document = document
        self._protected = protected
        self._effort = EFFORT
        self._at_once = self._room = self._copied = 0
        self._undo: list[Callable[[], object]] = []

    def apply(self, patch: Sequence[Any], room: int) -> int:
        """All of a patch, or nothing: PatchRefusedError. Returns the bytes that it copied, at most `room`."""
        if len(patch) > MOST_OPERATIONS:
            raise PatchRefusedError(f"a patch of more than {MOST_OPERATIONS} operations")
        self._at_once, self._room, self._copied = EFFORT_AT_ONCE, room, 0
        try:
            for operation in patch:
                self._operate(operation)
        except PatchRefusedError:
            for undo in reversed(self._undo):
                undo()
            raise
        finally:
            self._undo.clear()
        return self._copied

    def _operate(self, operation: Any) -> None:
        op = operation.get("op") if isinstance(operation, dict) else None
        if not isinstance(op, str) or op not in _OPERATIONS:
            raise PatchRefusedError(f"an operation is not one of {', '.join(sorted(_OPERATIONS))}")
        path = self._place(operation, "path")
        match op:
            case "remove":
                self._remove(path)
            case "move":
                self._move(self._place(operation, "from"), path)
            case "copy":
                self._add(path, self._copy(self._place(operation, "from"), len(path)))
            case _:
                if "value" not in operation:
                    raise PatchRefusedError(f"{op} without a value")
                value = operation["value"]
                _check_size(value, len(path))
                {"add": self._add, "replace": self._replace, "test": self._test}[op](path, value)

    def _place(self, operation: Mapping[str, Any], name: str) -> list[str]:
        path = _steps(operation.get(name))
        if not path:
            raise PatchRefusedError("the whole document is not to be patched")
        if path[0] == self._protected and (operation["op"] != "add" or len(path) == 1):
            raise PatchRefusedError(f"below /{self._protected} only add is allowed")
        return path

    def _add(self, path: Sequence[str], value: Any) -> None:
        parent, name = self._at(path[:-1]), path[-1]
        if isinstance(parent, dict):
            self._set(parent, name, value)
        elif isinstance(parent, list):
            place = len(parent) if name == "-" else _index(name, len(parent) + 1)
            self._shift(parent, place)
            parent.insert(place, value)
            self._undo.append(lambda: parent.pop(place))
        else:
            raise PatchRefusedError(f"{name} would be a member of what has none")

    def _remove(self, path: Sequence[str]) -> Any:
        parent, member = self._member(path)
        if isinstance(parent, list):
            self._shift(parent, member)
        value = parent.pop(member)
        if isinstance(parent, dict):
            self._undo.append(lambda: parent.__setitem__(member, value))
        else:
            self._undo.append(lambda: parent.insert(member, value))
        return value

    def _replace(self, path: Sequence[str], value: Any) -> None:
        self._set(*self._member(path), value)

    def _set(self, parent: Any, member: str | int, value: Any) -> None:
        before = parent.get(member, _ABSENT) if isinstance(parent, dict) else parent[member]
        parent[member] = value
        if before is _ABSENT:
            self._undo.append(lambda: parent.pop(member))
        else:
            self._undo.append(lambda: parent.__setitem__(member, before))

    def _move(self, origin: Sequence[str], path: Sequence[str]) -> None:
        if path != origin and path[: len(origin)] == origin:
            raise PatchRefusedError("a value is not to be moved into itself")
        self._spend(0)
        value = self._at(origin)
        self._spend(_check_size(value, len(path)))
        self._remove(origin)
        self._add(path, value)

    def _copy(self, origin: Sequence[str], depth: int) -> Any:
        """A few short operations can double a document many times over."""
        self._spend(0)
        value = self._at(origin)
        _check_size(value, depth)
        text = json.dumps(value)
        self._spend(len(text))
        self._copied += len(text)
        if self._copied > self._room:
            raise PatchRefusedError("the document has no room for the copy")
        return json.loads(text)

    def _test(self, path: Sequence[str], value: Any) -> None:
        if not _same(self._at(path), value):
            raise PatchRefusedError("a tested value is another")

    def _spend(self, effort: int) -> None:
        """PatchRefusedError when there is no effort left; asked for nothing before the value is looked at."""
        self._effort -= effort
        self._at_once -= effort
        if self._effort < 0 or self._at_once < 0:
            most = f"{EFFORT} members and bytes, or one of them more than {EFFORT_AT_ONCE}"
            raise PatchRefusedError(f"patches have moved and copied more than {most}")

    def _shift(self, array: Sequence[Any], place: int) -> None:
        """All elements from `place` on will have another one."""
        if effort := (len(array) - place) // _SHIFTED:
            self._spend(effort)

    def _at(self, path: Sequence[str]) -> Any:
        node: Any = self._document
        for name in path:
            node = node[_key(node, name)]
        return node

    def _member(self, path: Sequence[str]) -> tuple[Any, Any]:
        """The parent of what is there, and its key or index in it."""
        parent = self._at(path[:-1])
        return parent, _key(parent, path[-1])


def _check_size(value: Any, depth: int) -> int:
    """Of a value that will stand `depth` levels deep; returns how many members it has."""
    found = members(value, MOST_MEMBERS)
    if found > MOST_MEMBERS:
        raise PatchRefusedError(f"an operation takes a value of more than {MOST_MEMBERS} members")
    if nested_deeper(value, MAX_DEPTH - depth):
        raise PatchRefusedError(f"the patch nests deeper than {MAX_DEPTH} levels")
    return found


def _steps(pointer: object) -> list[str]:
    """The names that a JSON pointer (RFC 6901) leads along."""
    if not isinstance(pointer, str) or not pointer.startswith("/") or _NO_ESCAPE.search(pointer):
        return []
    if pointer.count("/") > MAX_DEPTH:  # before they are taken apart
        raise PatchRefusedError(f"nothing is deeper than {MAX_DEPTH} levels")
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer[1:].split("/")]


def _key(node: Any, name: str) -> str | int:
    """The key or index of the member of `node` that is called `name`."""
    if isinstance(node, list):
        return _index(name, len(node))
    if not isinstance(node, dict) or name not in node:
        raise PatchRefusedError("there is no such member")
    return name


def _index(name: str, bound: int) -> int:
    if not _INDEX.fullmatch(name) or int(name) >= bound:
        raise PatchRefusedError("an array has no such element")
    return int(name)


def _same(one: Any, other: Any) -> bool:
    """Whether they are the same JSON, in which true is not 1. No more of `one` is looked at than `other` has."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)
