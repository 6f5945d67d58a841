"""RabbitMQ's management API, as far as it tells of queues."""

import asyncio
import base64
import re
import ssl
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from studio_runner.errors import BrokerError, ConfigError
from studio_runner.queues.rabbitmq.naming import EXCHANGE, QueueName
from studio_runner.queues.rabbitmq.options import Address, RabbitOptions

if TYPE_CHECKING:
    import aiohttp

ANSWER_SECONDS = 20.0
NAME_THE_QUEUES = (
    "enable the plugin rabbitmq_management, give --amqp-mgt-url, or name the queues with --amqp-queues"
)


class NoManagementError(BrokerError):
    """Nothing like the API is there."""


class Management:
    """Connects when it is first asked."""

    def __init__(self, address: Address, options: RabbitOptions) -> None:
        self._base, self._user, password = _place(address, options.management_url)
        self._context = options.tls.context() if self._base.startswith("https:") else None
        word = base64.b64encode(f"{self._user}:{password}".encode()).decode()
        self._authorization = f"Basic {word}"
        self._client: aiohttp.ClientSession | None = None

    async def request_queues(self) -> list[QueueName]:
        """Every queue that is bound to StudioML's exchange, in all virtual hosts that the user may see.

        BrokerError when it cannot be asked; NoManagementError when it does not seem to be there at all.
        """
        exchanges = await self._get("/api/exchanges", {"columns": "vhost,name"})
        vhosts = [found["vhost"] for found in exchanges if found.get("name") == EXCHANGE]
        found = await asyncio.gather(*map(self._bound, vhosts))
        return sorted({name for names in found for name in names}, key=lambda name: (name.vhost, name.name))

    async def depths(self, vhost: str, beginning: str) -> Mapping[str, tuple[int, int]]:
        """By queue whose name has this beginning: messages ready, and handed out; some seconds old."""
        found = await self._get(
            f"/api/queues/{_quoted(vhost)}",
            {
                "columns": "name,messages_ready,messages_unacknowledged",
                "name": f"^{re.escape(beginning)}",
                "use_regex": "true",
                "page": "1",
                "page_size": "500",
            },
        )
        items = found.get("items", []) if isinstance(found, dict) else found
        return {
            item["name"]: (item.get("messages_ready", 0), item.get("messages_unacknowledged", 0))
            for item in items
            if item["name"].startswith(beginning)
        }

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()

    async def _bound(self, vhost: str) -> Sequence[QueueName]:
        path = f"/api/exchanges/{_quoted(vhost)}/{EXCHANGE}/bindings/source"
        try:
            found = await self._get(path, {"columns": "destination,destination_type"})
        except NoManagementError:
            return []  # the exchange is gone: it deletes itself with its last queue
        return [QueueName(vhost, item["destination"]) for item in found if item.get("destination_type") == "queue"]

    async def _get(self, path: str, parameters: Mapping[str, str]) -> Any:
        import aiohttp  # noqa: PLC0415  takes 0.2 s to load

        if self._client is None:
            self._client = aiohttp.ClientSession(
                headers={"Authorization": self._authorization},
                timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS),
            )
        from yarl import URL  # noqa: PLC0415

        url = URL(self._base + path, encoded=True).with_query(parameters)
        try:
            async with self._client.get(url, ssl=self._context or True) as answer:
                if answer.status != 200:
                    raise self._refusal(answer.status)
                return await answer.json()
        except (aiohttp.ClientSSLError, ssl.SSLError) as error:
            raise self._error(f"cannot be spoken to by TLS: {error}", "see --amqp-ca, --amqp-cert") from error
        except aiohttp.ClientConnectorError as error:
            raise NoManagementError(
                f"{self._name} cannot be reached: {error.os_error.strerror or error.os_error}",
                hint=NAME_THE_QUEUES,
            ) from error
        except TimeoutError as error:
            raise self._error("does not answer", "check host, port and firewalls between") from error
        except (aiohttp.ClientError, ValueError) as error:
            raise self._error(f"cannot be understood: {error}", "check --amqp-mgt-url") from error

    @property
    def _name(self) -> str:
        return f"the management API of RabbitMQ at {self._base}, asked by user {self._user},"

    def _refusal(self, status: int) -> BrokerError:
        if status == 401:
            return self._error(
                "does not accept this user and password, or lacks the tag `management` for the user",
                "check the credentials in --amqp-mgt-url (else those of --amqp-url), or name the queues with "
                "--amqp-queues",
            )
        if status == 404:
            return NoManagementError(f"{self._name} is not there (404)", hint=NAME_THE_QUEUES)
        return self._error(f"answers {status}", "its log may say why")

    def _error(self, what: str, hint: str) -> BrokerError:
        return BrokerError(f"{self._name} {what}", hint=hint)


def _place(address: Address, url: str) -> tuple[str, str, str]:
    """Where, as whom, with which password: what the URL leaves out is taken from the broker's address."""
    if not url:
        return address.management, address.user, address.password
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError as error:
        raise ConfigError(f"the URL of RabbitMQ's management API cannot be used: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            "the URL of RabbitMQ's management API cannot be used",
            hint="write http://[USER:PASSWORD@]HOST:PORT or https://...",
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    base = urlunsplit((parts.scheme, host + port, parts.path.rstrip("/").removesuffix("/api"), "", ""))
    if parts.username is None:
        return base, address.user, address.password
    return base, unquote(parts.username), unquote(parts.password or "")


def _quoted(name: str) -> str:
    return quote(name, safe="")
