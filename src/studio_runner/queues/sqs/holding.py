"""Holding a message for longer than the 12 hours that SQS allows.

Well before, the runner sends a copy to a queue of all runners, `studio-runner-held`, receives it there, which
starts another 12 hours, and deletes the original: at every moment the experiment is held. When the holder dies, its
copy becomes visible in that queue, and whichever runner looks there next sends it home.
"""

import logging
import time
from dataclasses import replace

from studio_runner.errors import BrokerError
from studio_runner.queues.complaints import Complaints
from studio_runner.queues.sqs.account import Account
from studio_runner.queues.sqs.faults import HandleInvalidError
from studio_runner.queues.sqs.listing import HELD, QueueList
from studio_runner.queues.sqs.messages import Message, Note
from studio_runner.queues.sqs.options import SqsOptions
from studio_runner.queues.sqs.queue import BATCH, SqsQueue

log = logging.getLogger(__name__)

PATIENCE = 30.0
"""Seconds to receive what was just sent."""
YOUNG = 10
"""Times `tidy`: a visible message of less age may be on its way to its holder."""


class Holding:
    """Hands held messages over to fresh copies, and brings home those of the dead."""

    def __init__(self, queues: QueueList, options: SqsOptions, runner: str) -> None:
        self._queues, self._options, self._runner = queues, options, runner
        self._complaints = Complaints(log)

    async def hand_over(self, home: SqsQueue, message: Message, note: Note) -> tuple[SqsQueue, Message]:
        """A copy of `message`, held, to go on with. BrokerError: then there is none."""
        held = await self._queues.make(HELD, home.account)
        sent = await held.send(message.copy(replace(note, taken=True, origin=home.name, holder=self._runner)))
        return held, await self._received(held, sent)

    async def _received(self, held: SqsQueue, sent: str) -> Message:
        """The message of id `sent`."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            for found in await held.receive(BATCH, 1, self._options.lease):
                if found.id == sent:
                    return found
                await self._leave(held, found)
        raise BrokerError(f"a message that was sent to queue {held.name} was not received there in {PATIENCE:g} s")

    async def _leave(self, held: SqsQueue, found: Message) -> None:
        """It is somebody else's, or an orphan, which the next look for those finds."""
        try:
            await held.hide(found, 0)
        except HandleInvalidError:
            log.debug("its holder was faster: %s", found.identity)

    async def orphans(self, account: Account) -> list[tuple[SqsQueue, Message]]:
        """Held messages of which the holder died; now held here."""
        held = await self._queues.reach(account, HELD)
        if held is None:
            return []
        found = []
        for message in await held.receive(BATCH, 0, self._options.lease):
            if time.time() - message.sent < YOUNG * self._options.tidy:
                await self._leave(held, message)
            else:
                found.append((held, message))
        return found

    async def send_home(self, held: SqsQueue, message: Message) -> None:
        """Back to its queue, with its holder's death on the account."""
        home = await self._queues.find(message.note.origin)
        if home is None or home.account is not held.account:
            problem = f"holds a message of queue {message.note.origin}, which is gone"
            self._complaints.once(f"queue {held.name}", problem, "it is dropped")
        else:
            # Not by its receipts: whoever looks here for orphans adds to those.
            note = replace(message.note, attempts=message.note.attempts + 1, origin="", holder="")
            await home.send(message.copy(note))
            log.warning(
                "a message of queue %s is back: runner %s, which held it, died", home.name, message.note.holder
            )
        await held.delete(message)
