"""Which broker serves an address. A new one is one file and one line here."""

from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from studio_runner.config.settings import QueueSettings
from studio_runner.errors import ConfigError
from studio_runner.queues.base import Broker


def _local(address: str, settings: QueueSettings) -> Broker:
    from studio_runner.queues.local import LocalBroker, LocalQueueOptions  # noqa: PLC0415 - loads what it needs

    parts = urlsplit(address)
    root = Path(unquote(parts.path) if parts.scheme else address)
    return LocalBroker(root.expanduser(), LocalQueueOptions(lease=settings.lease, poll=settings.poll))


def _memory(_address: str, _settings: QueueSettings) -> Broker:
    from studio_runner.queues.memory import MemoryBroker  # noqa: PLC0415

    return MemoryBroker()


_BROKERS: dict[str, Callable[[str, QueueSettings], Broker]] = {
    "": _local,
    "file": _local,
    "memory": _memory,
}


def open_broker(address: str | Path, settings: QueueSettings) -> Broker:
    """The broker at `address`: a directory, `file:///directory`, or `memory:`. To be entered with `async with`."""
    text = str(address)
    scheme = urlsplit(text).scheme if "://" in text or text == "memory:" else ""
    make = _BROKERS.get(scheme)
    if make is None:
        known = ", ".join(sorted(name for name in _BROKERS if name))
        raise ConfigError(f"no broker for {scheme}:// addresses", hint=f"use a directory, or one of: {known}")
    return make(text, settings)
