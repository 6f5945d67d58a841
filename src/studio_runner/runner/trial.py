"""The state of one attempt while it lasts: what the stages, the watchers and the finish share."""

import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from studio_runner.environments.base import Environment
from studio_runner.machine.ledger import Reservation
from studio_runner.messages.metadata import Document, document_name, iso_time
from studio_runner.messages.request import Request
from studio_runner.process.base import Exit
from studio_runner.process.output import Output
from studio_runner.process.spawn import Process
from studio_runner.queues.base import Delivery
from studio_runner.reports.base import Reserved, Subject
from studio_runner.runner.artifacts import Artifacts
from studio_runner.runner.host import Host
from studio_runner.storage.budget import DiskBudget


@dataclass
class Trial:
    """Owned by `attempt`, which sets `stage`; `process` and `exit` are set by the run stage, everything else stays
    as it was made.

    `started_at` is Unix time.
    """

    host: Host
    delivery: Delivery
    request: Request
    subject: Subject
    directory: Path
    artifacts: Artifacts
    output: Output
    document: Document
    budget: DiskBudget
    reservation: Reservation
    starting: ExitStack
    """Closed when the script runs."""
    started_at: float
    stage: str = "prepare"
    process: Process | None = None
    exit: Exit | None = None

    async def upload(self, labels: Iterable[str]) -> None:
        """Bring these artifacts back as they are now, and the metadata document."""
        await self.artifacts.upload(labels, self._metadata())

    def reserved(self) -> Reserved:
        """Its share of the machine, as it is now."""
        share, gpus = self.reservation.share, self.reservation.gpus
        named = [(uuid, self.host.gpus.pool.places[uuid].card.name) for uuid in gpus.cards]
        return Reserved(share.cores, share.memory, share.disk, named, gpus.fraction)

    def _metadata(self) -> dict[str, bytes]:
        """The document by its file name; nothing where metadata is off."""
        if not self.host.settings.experiments.generate_metadata:
            return {}
        return {document_name(self.subject.host, self.started_at): self.document.to_json()}

    def describe(self) -> None:
        """What the runner knows from the start, into the metadata document."""
        request = self.request
        self.document.add_studioml(
            {
                "artifacts": self.artifacts.addresses(),
                "experiment": {"key": request.key, "project": request.project, "owner": request.owner},
                "host": self.subject.host,
                "load_time": iso_time(time.time_ns()),
            }
        )

    def describe_start(self, environment: Environment) -> None:
        """The script is about to start, in this environment."""
        tree = [
            {"package": package.name, "version": package.version, "dependencies": list(package.requires)}
            for package in environment.packages()
        ]
        self.document.add_studioml({"start_time": iso_time(time.time_ns()), "pipdeptree": tree})

    def describe_end(self) -> None:
        """The script and all its processes are gone."""
        self.document.add_studioml({"stop_time": iso_time(time.time_ns())})
