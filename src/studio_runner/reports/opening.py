"""Everybody who is told of experiments, as the settings say."""

import ipaddress
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from studio_runner.config.settings import HttpSettings, ReportSettings
from studio_runner.errors import ConfigError
from studio_runner.messages.masking import Secrets
from studio_runner.reports.base import Reporter
from studio_runner.reports.databases import Databases
from studio_runner.reports.notifiers import SLACK_API, Slack, Webhooks
from studio_runner.reports.outbox import Outbox, Receiver, opened_session
from studio_runner.reports.recorder import Recorder
from studio_runner.reports.sender import SenderRecorder


@asynccontextmanager
async def opened_reporters(
    settings: ReportSettings, databases: Databases, dashboard: str | None = None, secrets: Secrets | None = None
) -> AsyncIterator[Sequence[Reporter]]:
    """The reporters of a runner; leaving the context waits, for a limited time, until the last news are out.

    `dashboard` is where people reach this runner's pages (`dashboard_address`).
    """
    async with AsyncExitStack() as stack:
        found: list[Reporter] = [
            Recorder(databases.default, secrets or Secrets()),
            await stack.enter_async_context(SenderRecorder(databases)),
        ]
        found += await _notifiers(settings, dashboard, stack)
        yield found


def dashboard_address(http: HttpSettings, host: str) -> str | None:
    """Where other machines reach the pages of the runner on `host`; None when they cannot, or nobody knows."""
    name, _, port = http.address.rpartition(":")
    name = name.strip("[]")
    if not name or port == "0":
        return None
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return None if name == "localhost" else f"http://{name}:{port}"
    if address.is_loopback:
        return None
    shown = f"[{address}]" if address.version == 6 else str(address)
    return f"http://{host if address.is_unspecified else shown}:{port}"


async def _notifiers(settings: ReportSettings, dashboard: str | None, stack: AsyncExitStack) -> list[Reporter]:
    slack = _slack(settings)
    if slack is None and not settings.webhooks:
        return []
    session = await stack.enter_async_context(opened_session())

    async def outbox(receiver: Receiver) -> Outbox:
        return await stack.enter_async_context(Outbox(receiver, session))

    found: list[Reporter] = [Slack(await outbox(slack), dashboard)] if slack else []
    if settings.webhooks:
        hooks = [_receiver("webhook", url, "reports.webhooks") for url in settings.webhooks]
        found.append(Webhooks([await outbox(hook) for hook in hooks]))
    return found


def _slack(settings: ReportSettings) -> Receiver | None:
    if settings.slack_url:
        return _receiver("Slack webhook", settings.slack_url, "reports.slack_url")
    if settings.slack_token:
        return Receiver.of("Slack API", SLACK_API, {"Authorization": f"Bearer {settings.slack_token}"})
    return None


def _receiver(kind: str, url: str, option: str) -> Receiver:
    receiver = Receiver.of(kind, url)
    if not url.lower().startswith(("http://", "https://")):
        raise ConfigError(f"{option}: the {receiver.name} has no http or https address")
    return receiver
