"""The disk an experiment may fill with what it fetches."""

from threading import Lock

from studio_runner.errors import DiskExceededError


class DiskBudget:
    """Bytes that may still be written for one experiment, over all of its artifacts; safe to share by threads.

    `limit` None: no bound, only counted.
    """

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self._used = 0
        self._lock = Lock()

    @property
    def used(self) -> int:
        """Bytes charged so far."""
        return self._used

    def charge(self, size: int) -> None:
        """Count `size` bytes before they are written; DiskExceededError when they would go over the limit."""
        with self._lock:
            wanted = self._used + size
            if self.limit is not None and wanted > self.limit:
                raise DiskExceededError(
                    f"needs at least {wanted:,} bytes of disk, {self.limit:,} were asked for (hdd)",
                    hint="raise hdd in resources_needed",
                )
            self._used = wanted
