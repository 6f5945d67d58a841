"""Things wrong with a queue that stay wrong are said once, not at every look."""

import logging

REMEMBERED = 10_000


class Complaints:
    """What was said already."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._said: dict[str, set[str]] = {}

    def once(self, about: object, problem: str, hint: str) -> None:
        """Warn that `about` has `problem`, and what to do, unless that was said before."""
        name = str(about)
        if problem in self._said.get(name, ()):
            return
        if len(self._said) >= REMEMBERED:
            self._said.clear()
        self._said.setdefault(name, set()).add(problem)
        self._log.warning("%s: %s; %s", *map(_printable, (name, problem, hint)))

    def settled(self, about: object) -> None:
        """All is well with `about` again: say it once more when it breaks again."""
        self._said.pop(str(about), None)


def _printable(text: str) -> str:
    """File names can hold bytes that are no text."""
    return text.encode(errors="backslashreplace").decode()
