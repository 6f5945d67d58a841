"""Which queues there are, over all accounts, and how each is reached."""

import asyncio
import hashlib
import logging
import re
from collections.abc import Sequence

from studio_runner.errors import BrokerError
from studio_runner.queues.complaints import Complaints
from studio_runner.queues.sqs.account import ANY_REGION, Account
from studio_runner.queues.sqs.faults import QueueMissingError
from studio_runner.queues.sqs.options import SqsOptions
from studio_runner.queues.sqs.profiles import profiles_in
from studio_runner.queues.sqs.queue import SqsQueue

log = logging.getLogger(__name__)

HELD = "studio-runner-held"
"""Messages of experiments that run longer than SQS lets anybody hold one receipt."""
DEAD = "studio-runner-dead-"
RETENTION = 14 * 24 * 3600
"""The longest that SQS keeps a message."""
LONGEST_NAME = 80
_NOTHING_DOING = "an account that cannot be asked is left out until it can"


class QueueList:
    """Addresses of queues are kept; whether one still exists is asked every time."""

    def __init__(self, options: SqsOptions) -> None:
        self._options = options
        self._accounts: list[Account] = []
        self._known: dict[str, SqsQueue] = {}
        self._complaints = Complaints(log)

    @property
    def accounts(self) -> Sequence[Account]:
        """ConfigError when the directory of credentials is of no use."""
        if not self._accounts:
            certs, options = self._options.certs, self._options
            region = options.region or (ANY_REGION if options.endpoint else "")
            profiles = profiles_in(certs, region) if certs else [None]
            self._accounts = [Account(options, profile) for profile in profiles]
        return self._accounts

    async def close(self) -> None:
        for account in self._accounts:
            await account.close()

    async def names(self) -> list[str]:
        """All queues with the prefix. BrokerError when no account could be asked."""
        found = await asyncio.gather(*(self._names(account) for account in self.accounts), return_exceptions=True)
        failures = [failure for failure in found if isinstance(failure, BaseException)]
        for failure in failures:
            if not isinstance(failure, BrokerError) or len(failures) == len(found):
                raise failure
            self._complaints.once("SQS", str(failure), failure.hint or _NOTHING_DOING)
        return sorted({name for names in found if isinstance(names, list) for name in names})

    async def find(self, name: str) -> SqsQueue | None:
        """The queue of that name, if there is one now."""
        if name in self._known:
            return self._known[name]
        for account in self.accounts:
            queue = await self.reach(account, name)
            if queue is not None:
                self._known[name] = queue
                return queue
        return None

    async def exists(self, name: str) -> bool:
        self._known.pop(name, None)
        return await self.find(name) is not None

    async def reach(self, account: Account, name: str, owner: str = "") -> SqsQueue | None:
        """The queue of that name in one account, perhaps owned by another (`owner` is its number)."""
        extra = {"QueueOwnerAWSAccountId": owner} if owner else {}
        try:
            answer = await account.call("get_queue_url", f"looking for queue {name}", QueueName=name, **extra)
        except QueueMissingError:
            return None
        return SqsQueue(account, name, str(answer["QueueUrl"]))

    async def make(self, name: str, account: Account | None = None) -> SqsQueue:
        """The queue of that name, created if need be."""
        account = account or self.accounts[0]
        attributes = {"MessageRetentionPeriod": str(RETENTION)}
        if name.endswith(".fifo"):
            attributes["FifoQueue"] = "true"
        existing = await self.reach(account, name)
        if existing is not None:
            return existing
        answer = await account.call("create_queue", f"creating queue {name}", QueueName=name, Attributes=attributes)
        return SqsQueue(account, name, str(answer["QueueUrl"]))

    async def _names(self, account: Account) -> list[str]:
        names = []
        listing = account.pages(
            "list_queues", "listing the queues", QueueNamePrefix=self._options.prefix, MaxResults=1000
        )
        async for page in listing:
            for url in page.get("QueueUrls", ()):
                name = url.rsplit("/", 1)[-1]
                if not name.startswith((HELD, DEAD)):
                    self._note(SqsQueue(account, name, url))
                    names.append(name)
        return names

    def _note(self, queue: SqsQueue) -> None:
        """Two accounts may have a queue of one name: the one that was found first is served."""
        known = self._known.setdefault(queue.name, queue)
        if known.account is not queue.account:
            problem = f"is both at {known.account} and at {queue.account}; only the first is served"
            self._complaints.once(f"queue {queue.name}", problem, "rename one of them")


def dead_name(queue: str) -> str:
    """The queue for dead letters of one that has no redrive policy: SQS takes 80 letters, digits, `-` and `_`."""
    name = DEAD + re.sub(r"[^A-Za-z0-9_-]", "-", queue)
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[: LONGEST_NAME - 11]}-{hashlib.sha256(queue.encode()).hexdigest()[:10]}"
