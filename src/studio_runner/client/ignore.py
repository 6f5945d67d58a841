"""Which files of a working directory travel with an experiment: `.studioml_ignore` and the usual leave-outs.

Patterns mean what they mean in a `.gitignore`: the last one that matches decides, `!` takes back, a slash anchors
to the directory of the file, a slash at the end means directories only, `**` crosses directories.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

IGNORE_FILE = ".studioml_ignore"

DEFAULTS = (
    ".git/",
    ".hg/",
    ".svn/",
    "__pycache__/",
    "*.py[cod]",
    ".venv/",
    "venv/",
    ".tox/",
    ".nox/",
    "node_modules/",
    "*.egg-info/",
    ".eggs/",
    ".mypy_cache/",
    ".pytest_cache/",
    ".ruff_cache/",
    ".hypothesis/",
    ".ipynb_checkpoints/",
    ".idea/",
    ".vscode/",
    ".DS_Store",
    IGNORE_FILE,
)
"""Left out everywhere; a `!` line in `.studioml_ignore` takes one back in."""


@dataclass(frozen=True)
class _Rule:
    match: re.Pattern[str]
    directories_only: bool
    keeps: bool


class IgnoreRules:
    """Answers whether a path (relative, with slashes) stays behind."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._rules = [rule for line in (*DEFAULTS, *lines) if (rule := _rule(line)) is not None]

    @classmethod
    def of(cls, directory: Path) -> "IgnoreRules":
        """The defaults and the directory's own `.studioml_ignore`, where it has one."""
        try:
            text = (directory / IGNORE_FILE).read_text(encoding="utf-8", errors="surrogateescape")
        except (FileNotFoundError, IsADirectoryError):
            text = ""
        return cls(text.splitlines())

    def ignores_file(self, path: str) -> bool:
        return self._last(path, (rule for rule in self._rules if not rule.directories_only))

    def ignores_directory(self, path: str) -> bool:
        """Nothing below an ignored directory is looked at, as with git."""
        return self._last(path, self._rules)

    def _last(self, path: str, rules: Iterable[_Rule]) -> bool:
        ignored = False
        for rule in rules:
            if rule.keeps is ignored and rule.match.fullmatch(path):
                ignored = not rule.keeps
        return ignored


def _rule(line: str) -> _Rule | None:
    text = line.rstrip("\r\n")
    text = re.sub(r"(?<!\\) +$", "", text)
    if not text or text.startswith("#"):
        return None
    keeps = text.startswith("!")
    text = text[1:] if keeps else text
    directories_only = text.endswith("/")
    text = text.rstrip("/")
    if not text:
        return None
    anchored = "/" in text
    expression = _expression(text.lstrip("/"))
    return _Rule(
        re.compile(expression if anchored else f"(?:.*/)?{expression}", re.DOTALL), directories_only, keeps
    )


_TOKEN = re.compile(r"^\*\*/|/\*\*/|/\*\*$|\*+|\?|\[!?\]?[^\]]*\]|\\.|.", re.DOTALL)


def _expression(glob: str) -> str:
    return "".join(_translate(token.group()) for token in _TOKEN.finditer(glob))


def _translate(token: str) -> str:
    fixed = {"**/": "(?:.*/)?", "/**/": "/(?:.*/)?", "/**": "/.+", "?": "[^/]"}
    if token in fixed:
        return fixed[token]
    if token.startswith("*"):
        return "[^/]*"
    if token.startswith("[") and len(token) > 2:
        inside = token[1:-1].replace("\\", "\\\\").replace("[", "\\[")
        return f"(?!/)[{'^' + inside[1:] if inside.startswith('!') else inside}]"
    return re.escape(token[1:] if token.startswith("\\") and len(token) == 2 else token)
