"""Things wrong with a queue that stay wrong are said once, not at every look."""

import logging

REMEMBERED = 10_000


class Complaints:
    """What was said already."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._said: set[tuple[str, str]] = set()

    def once(self, about: object, problem: str, hint: str) -> None:
        """Warn that `about` has `problem`, and what to do, unless that was said before."""
        what = (str(about), problem)
        if what in self._said:
            return
        if len(self._said) >= REMEMBERED:
            self._said.clear()
        self._said.add(what)
        self._log.warning(
            "%s: %s; %s", *(part.encode(errors="backslashreplace").decode() for part in (*what, hint))
        )

    def settled(self, about: object) -> None:
        """All is well with `about` again: say it once more when it breaks again."""
        name = str(about)
        self._said = {what for what in self._said if what[0] != name}
