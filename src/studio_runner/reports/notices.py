"""What is told of experiments to people and programs elsewhere: nothing of arguments, variables or credentials."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from studio_runner.errors import Reason
from studio_runner.messages.fields import NOTHING
from studio_runner.messages.secrets import mask_urls
from studio_runner.messages.units import format_duration
from studio_runner.reports.base import MOST_TOLD, Ended, Event, Started, Subject


@dataclass(frozen=True)
class Notice:
    """The start or the end of an attempt."""

    event: Started | Ended

    @classmethod
    def of(cls, event: Event) -> "Notice | None":
        """None for what nobody elsewhere is told of; an attempt that another runner took over does not end here."""
        match event:
            case Started():
                return cls(event)
            case Ended() if event.reason is not Reason.LEASE_LOST:
                return cls(event)
            case _:
                return None

    @property
    def subject(self) -> Subject:
        return self.event.subject

    @property
    def duration(self) -> float | None:
        """Seconds of an attempt that has ended."""
        if isinstance(self.event, Ended) and self.event.started is not None:
            return max(0.0, self.event.at - self.event.started)
        return None

    def document(self) -> dict[str, Any]:
        """For programs; every field is always there."""
        end = self.event if isinstance(self.event, Ended) else None
        return {
            "event": "ended" if end else "started",
            "time": datetime.fromtimestamp(self.event.at, UTC).isoformat(timespec="milliseconds"),
            "experiment": _about(self.subject),
            "reason": end.reason.value if end else None,
            "sentence": end.sentence if end else None,
            "exit_code": end.exit_code if end else None,
            "signal": end.signal if end else None,
            "duration": self.duration,
            "final": end.final if end else None,
        }

    def text(self, dashboard: str | None) -> str:
        """For people, in Slack's markup. `dashboard` is where this runner's pages can be reached."""
        about, event = _about(self.subject), self.event
        where = f"on {_plain(about['host'])}"
        attempt = f", attempt {about['attempt']}" if about["attempt"] > 1 else ""
        project = f" of project {_plain(about['project'])}" if about["project"] else ""
        name = f"Experiment `{_plain(about['key'])}`{project}"
        if isinstance(event, Ended):
            lines = [f"{name} {_verdict(event)} {where}{attempt}{_after(self.duration)}", self._sentence(event)]
        else:
            lines = [f"{name} started {where}{attempt}"]
        if dashboard:
            lines.append(f"<{dashboard.rstrip('/')}/experiments/{quote(about['key'], errors='replace')}|its page>")
        return "\n".join(lines)

    def _sentence(self, event: Ended) -> str:
        again = "" if event.final else " It will be tried again."
        return _plain(f"{event.sentence}{again}")


def _about(subject: Subject) -> dict[str, Any]:
    experiment = subject.experiment
    return {
        "key": subject.key,
        "project": _said(experiment.get("project")),
        "owner": _said(experiment.get("owner")) or _said(experiment.get("author")),
        "queue": subject.queue,
        "attempt": subject.number,
        "host": subject.host,
    }


def _verdict(event: Ended) -> str:
    match event.reason:
        case Reason.COMPLETED:
            return ":white_check_mark: completed"
        case Reason.STOPPED | Reason.DRAINED:
            return f":black_square_for_stop: {event.reason.value}"
        case _:
            return f":x: ended: {event.reason.value.replace('_', ' ')}"


def _after(duration: float | None) -> str:
    return "" if duration is None else f" after {format_duration(round(duration, 1))}"


def _said(value: Any) -> str | None:
    return mask_urls(value)[:MOST_TOLD] if isinstance(value, str) and value not in ("", NOTHING) else None


def _plain(text: str) -> str:
    """Slack reads nothing else as markup that could call people or lead elsewhere."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("`", "'")
