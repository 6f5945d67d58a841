"""Messages that are here and that the gate refused."""

from studio_runner.queues.sqs.delivery import Receipt
from studio_runner.queues.sqs.options import Clock

LONGEST = 10.0
"""Seconds that a refused message is hidden from other runners."""
MOST = 100


class Refused:
    """In the order in which they came. `seen` is the count of releases at which all of them were refused."""

    def __init__(self, clock: Clock, at_most: float) -> None:
        self._clock = clock
        self._longest = min(LONGEST, at_most)
        self._receipts: dict[str, Receipt] = {}
        self.seen = 0

    def __len__(self) -> int:
        return len(self._receipts)

    @property
    def is_full(self) -> bool:
        return len(self._receipts) >= MOST

    def add(self, receipt: Receipt) -> None:
        self._receipts[receipt.message.identity] = receipt

    def take_all(self) -> list[Receipt]:
        receipts = list(self._receipts.values())
        self._receipts.clear()
        return receipts

    def due(self) -> list[Receipt]:
        """Taken out: those whose time is over, and the oldest when there are too many."""
        oldest = list(self._receipts.items())
        excess = len(oldest) - MOST
        limit = self._clock() - self._longest
        due = [
            (name, receipt)
            for number, (name, receipt) in enumerate(oldest)
            if number < excess or receipt.at <= limit
        ]
        for name, _ in due:
            del self._receipts[name]
        return [receipt for _, receipt in due]

    def until_due(self) -> float:
        return max(0.0, min(receipt.at for receipt in self._receipts.values()) + self._longest - self._clock())
