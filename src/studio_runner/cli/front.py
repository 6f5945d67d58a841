"""What the commands about experiments work with: the person's configuration, and what it leads to."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from studio_runner.cli.broker import broker_for, with_brokers
from studio_runner.cli.session import Session
from studio_runner.config.responses import is_response
from studio_runner.config.settings import Settings
from studio_runner.errors import UsageError

if TYPE_CHECKING:  # what submitting needs is imported when something is submitted
    from studio_runner.client.holdings import Holdings
    from studio_runner.client.sealing import Post
    from studio_runner.client.submit import Desk
    from studio_runner.config.studioml import StudioConfig
    from studio_runner.queues.base import KeptBroker

DEFAULT_QUEUE = "local_default"

_KINDS = ("local_", "rmq_", "sqs_")


@dataclass(frozen=True)
class Front:
    """A command's person: `settings` have the brokers of `config` where they name none themselves."""

    session: Session
    settings: Settings
    config: "StudioConfig"

    def opened_holdings(self) -> AbstractAsyncContextManager["Holdings"]:
        """Experiments and artifacts, where the configuration has them."""
        from studio_runner.client.holdings import opened_holdings
        from studio_runner.client.stores import stores_of

        stores = stores_of(self.config, self.settings.places.store)
        return opened_holdings(self.config, stores, self.settings.storage)

    def opened_holdings_here(self) -> AbstractAsyncContextManager["Holdings"]:
        """Those of this machine, whatever the configuration says about others."""
        from studio_runner.client.holdings import opened_holdings
        from studio_runner.client.stores import stores_here

        stores = stores_here(self.config, self.settings.places.store)
        return opened_holdings(self.config, stores, self.settings.storage)

    def post(self, say: Callable[[str], None]) -> "Post":
        """How this person's requests are sent; an error, before anything else is done, when that cannot be."""
        from studio_runner.cli.passphrase import asked
        from studio_runner.client.sealing import Sealer, post_of

        post = post_of(self.config, asked)
        if isinstance(post, Sealer):
            say(f"messages are {post}")
        return post

    def desk(self, holdings: "Holdings", broker: "KeptBroker", say: Callable[[str], None], post: "Post") -> "Desk":
        """All that submitting works with."""
        from studio_runner.client.submit import Desk

        active = self.session.environ.get("VIRTUAL_ENV")
        return Desk(holdings, broker, Path(active) if active else None, say, post)

    @asynccontextmanager
    async def opened_desk(self, queue: str, say: Callable[[str], None]) -> AsyncIterator["Desk"]:
        """All that submitting to this queue works with."""
        post = self.post(say)
        async with self.opened_holdings() as holdings, broker_for(queue, self.settings) as broker:
            yield self.desk(holdings, broker, say, post)

    def queue_name(self, chosen: str | None, otherwise: str | None = None) -> str:
        """The queue that is named, else that of an earlier try or of the configuration, else the default one."""
        configured = otherwise or self.config.queue
        name = chosen or (configured if configured and configured.startswith(_KINDS) else None) or DEFAULT_QUEUE
        if not name.startswith(_KINDS) or "/" in name or "\0" in name or is_response(name):
            raise UsageError(
                f"{name!r} is no name for a queue of experiments",
                hint="Queues are named local_..., rmq_... (RabbitMQ) or sqs_... (SQS), and not ..._response.",
            )
        return name


@contextmanager
def front_of(session: Session, settings: Settings) -> Iterator[Front]:
    """The person whose command this is."""
    from studio_runner.config.studioml import read_studio_config

    config = read_studio_config(settings.places.home, session.environ)
    with with_brokers(settings, config) as whole:
        yield Front(session, whole, config)
