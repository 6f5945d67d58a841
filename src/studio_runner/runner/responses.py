"""Reports to senders (INTERFACE section 8): where they go, if anywhere."""

from collections.abc import Sequence
from dataclasses import dataclass

from studio_runner.config.keys.files import KeyDirectory
from studio_runner.config.settings import QueueSettings, TrustSettings
from studio_runner.messages.keys import read_sealing_key
from studio_runner.queues.base import Broker, KeptBroker
from studio_runner.queues.registry import broker_among
from studio_runner.reports.responses import Responses


def responses_of(settings: TrustSettings) -> Sequence[Responses]:
    """The reporter, where there may be keys of readers. KeyFileError when their directory cannot be used."""
    if settings.response_signatures_dir is None:
        return ()
    keys = KeyDirectory(settings.response_signatures_dir, read_sealing_key)
    keys.check()
    return (Responses(keys),)


@dataclass(frozen=True)
class ResponseQueues:
    """Those of the brokers that the requests come from."""

    brokers: Sequence[KeptBroker]
    settings: QueueSettings

    async def exists(self, queue: str) -> bool:
        return await self._broker(queue).exists(queue)

    async def report(self, queue: str, text: bytes) -> bool:
        return await self._broker(queue).report(queue, text)

    def _broker(self, queue: str) -> Broker:
        return broker_among(self.brokers, queue, self.settings)
