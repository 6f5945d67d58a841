"""The script's arguments: clients quote each element for a shell, and there is no shell (INTERFACE section 1)."""

import re
from collections.abc import Iterable

MOST_TEXT = 1 << 20
"""Characters of all requirement lines, of all variables, or of all arguments, of one message. The kernel starts no
program with more variables or arguments than that, and whoever reads lines reads them more than once."""

_TOKEN = re.compile(
    r"""
    (?P<blank> [ \t\n]+ )
  | (?P<word> [^ \t\n'"\\]+ )
  | ' (?P<single> [^']* ) '
  | " (?P<double> (?: [^"\\]++ | \\. )*+ ) "
  | \\ (?P<escaped> . )
    """,
    re.VERBOSE | re.DOTALL,
)
_NEEDS_READING = re.compile(r"[ \t\n'\"\\]")
_ESCAPE_IN_DOUBLE = re.compile(r"\\([$`\"\\\n])")
_NEWLINE = "\n"


def script_arguments(args: Iterable[str]) -> tuple[str, ...]:
    """The words that the elements of `experiment.args` spell, one after the other.

    POSIX quoting (XCU 2.2) and nothing else: no expansion, no operators, no comments. An element that does not
    parse (an open quote, a lone backslash at the end) is one word as it stands, and so is what comes after so many
    characters as MOST_TEXT; one without any word gives none.
    """
    words: list[str] = []
    left = MOST_TEXT
    for element in args:
        left -= len(element)
        words += _words(element) if left >= 0 else [element]
    return tuple(words)


def _words(element: str) -> list[str]:
    if not element:
        return []
    if not _NEEDS_READING.search(element):
        return [element]
    words: list[str] = []
    current: list[str] = []  # the parts of a word; text that is added to text again and again takes for ever
    position = 0
    while position < len(element):
        token = _TOKEN.match(element, position)
        if token is None:
            return [element]
        position = token.end()
        if token.lastgroup != "blank":
            current += _part(token)
        elif current:
            words.append("".join(current))
            current.clear()
    return [*words, "".join(current)] if current else words


def _part(token: re.Match[str]) -> list[str]:
    """What the token adds to a word; `''` adds nothing and is a word all the same."""
    kind = token.lastgroup or ""
    text = token[kind]
    if kind == "double":
        text = _ESCAPE_IN_DOUBLE.sub(_unescaped, text)
    elif kind == "escaped" and text == _NEWLINE:  # a continued line: nothing at all, not even a word
        return []
    return [text]


def _unescaped(escape: re.Match[str]) -> str:
    return "" if escape[1] == _NEWLINE else escape[1]
