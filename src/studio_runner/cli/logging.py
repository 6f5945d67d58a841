"""The program's own log, on standard error: lines for people, or one JSON object per line."""

import json
import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import TextIO

from studio_runner.cli.output import escaped
from studio_runner.config.cascade import Configuration
from studio_runner.messages.masking import Masker
from studio_runner.runner.context import about

FindMasker = Callable[[], Masker]

_NOT_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _OwnHandler(logging.StreamHandler[TextIO]):
    """Told from other people's, so that it is never there twice."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  its name in the library
        """Of a line that cannot be made or written. The library's own prints all that the record holds."""
        place = f"{record.name}, line {record.lineno}"
        with suppress(OSError, ValueError):
            self.stream.write(f"a line of the log is lost: {type(sys.exception()).__name__} ({place})\n")


def configure(configuration: Configuration, unless_chosen: str, masker: FindMasker) -> None:
    """Log as the settings say; `unless_chosen` is the level where nobody chose one."""
    chosen = configuration.values["log.level"]
    handler = _OwnHandler(sys.stderr)
    form = JsonFormatter if configuration.settings.log.format == "json" else TextFormatter
    handler.setFormatter(form(masker))
    root = logging.getLogger()
    root.handlers[:] = [other for other in root.handlers if not isinstance(other, _OwnHandler)] + [handler]
    root.setLevel(logging.WARNING)  # other people's libraries
    level = unless_chosen if chosen.default else configuration.settings.log.level
    logging.getLogger("studio_runner").setLevel(level.upper())


class _Discreet(logging.Formatter):
    """Hides secrets in all of a record, whoever made it."""

    def __init__(self, masker: FindMasker) -> None:
        super().__init__()
        self.masker = masker


class TextFormatter(_Discreet):
    """`12:00:01 INFO    message [experiment=... queue=...]`; names and texts of other people make no lines of their
    own."""

    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(record)
        context = f" [{' '.join(f'{name}={value}' for name, value in fields.items())}]" if fields else ""
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        hide = self.masker().text
        line = hide(f"{time} {record.levelname:<7} {record.getMessage()}{context}").replace("\n", "\\n")
        return escaped(line + hide(_trouble(self, record, "\n")))


class JsonFormatter(_Discreet):
    """One object: time (UTC), level, logger, message, what the record is about, and the traceback if any."""

    def format(self, record: logging.LogRecord) -> str:
        document: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if trouble := _trouble(self, record, ""):
            document["traceback"] = trouble
        masker = self.masker()
        hidden = masker.value(document)
        return escaped(json.dumps(hidden, default=lambda value: masker.text(str(value)), ensure_ascii=False))


def _fields(record: logging.LogRecord) -> dict[str, object]:
    """What the record is about: the experiment that the current task works on, and what was given with it."""
    subject = about.get()
    given = {name: value for name, value in vars(record).items() if name not in _NOT_FIELDS}
    return {**(vars(subject) if subject else {}), **given}


def _trouble(formatter: logging.Formatter, record: logging.LogRecord, before: str) -> str:
    return before + formatter.formatException(record.exc_info) if record.exc_info else ""
