"""Reporters that tell Slack and plain webhooks of the start and the end of experiments."""

from collections.abc import Sequence

from studio_runner.reports.base import Event
from studio_runner.reports.notices import Notice
from studio_runner.reports.outbox import Outbox

SLACK_API = "https://slack.com/api/chat.postMessage"


class Webhooks:
    """Tells every receiver of every experiment, as JSON."""

    def __init__(self, outboxes: Sequence[Outbox]) -> None:
        self._outboxes = tuple(outboxes)

    async def report(self, event: Event) -> None:
        """Returns at once."""
        if notice := Notice.of(event):
            document = notice.document()
            for outbox in self._outboxes:
                outbox.post(document)


class Slack:
    """Tells whom the message names (`$.config.runner.slack_destination`: `@user` or `#channel`)."""

    def __init__(self, outbox: Outbox, dashboard: str | None) -> None:
        self._outbox, self._dashboard = outbox, dashboard

    async def report(self, event: Event) -> None:
        """Returns at once."""
        notice = Notice.of(event)
        config = event.subject.config
        destination = config.runner.slack_destination if config and config.runner else None
        if notice and destination:
            self._outbox.post({"channel": destination, "text": notice.text(self._dashboard)})
