"""Which files of a working directory travel with an experiment: `.studioml_ignore` and the usual leave-outs.

Patterns mean what they mean in a `.gitignore`: the last one that matches decides, `!` takes back, a slash anchors
to the directory of the file, a slash at the end means directories only, `**` crosses directories.
"""

import re
from collections.abc import Callable, Iterable, Sequence
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

    def __init__(self, lines: Iterable[str], markers: Sequence[str] = ()) -> None:
        """`markers`: a directory that holds a file of such a name is left out as a whole."""
        self._rules = [rule for line in lines if (rule := _rule(line)) is not None]
        self._markers = tuple(markers)

    @classmethod
    def of_workspace(cls, directory: Path) -> "IgnoreRules":
        """The defaults, virtual environments under any name, and the directory's own `.studioml_ignore`."""
        return cls((*DEFAULTS, *_own_lines(directory)), markers=("pyvenv.cfg",))

    @classmethod
    def of_data(cls, directory: Path) -> "IgnoreRules":
        """The directory's own `.studioml_ignore` and nothing else."""
        return cls((IGNORE_FILE, *_own_lines(directory)))

    def keeps(self, root: Path) -> Callable[[str, bool], bool]:
        """For a walk through `root`: whether a path, and whether it is a directory, to whether it goes along."""

        def keep(path: str, is_directory: bool) -> bool:  # noqa: FBT001  the walk's signature
            return not (self.ignores_directory(path, root / path) if is_directory else self.ignores_file(path))

        return keep

    def ignores_file(self, path: str) -> bool:
        return self._last(path, (rule for rule in self._rules if not rule.directories_only))

    def ignores_directory(self, path: str, place: Path) -> bool:
        """Nothing below an ignored directory is looked at, as with git. `place` is where it is."""
        return self._last(path, self._rules) or any((place / marker).exists() for marker in self._markers)

    def _last(self, path: str, rules: Iterable[_Rule]) -> bool:
        ignored = False
        for rule in rules:
            if rule.keeps is ignored and rule.match.fullmatch(path):
                ignored = not rule.keeps
        return ignored


def _own_lines(directory: Path) -> list[str]:
    try:
        return (directory / IGNORE_FILE).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except (FileNotFoundError, IsADirectoryError):
        return []


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
