"""What every attempt on this runner shares."""

import os
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from studio_runner.config.settings import Settings
from studio_runner.environments.base import EnvironmentProvider
from studio_runner.environments.containers.provider import Containers
from studio_runner.environments.containers.readiness import Readiness
from studio_runner.environments.images.base import Images
from studio_runner.machine.gpus.warden import Warden
from studio_runner.machine.ledger import Ledger
from studio_runner.process.cgroups.groups import Groups
from studio_runner.process.diskwatch import DiskWatch
from studio_runner.process.spawn import Spawner
from studio_runner.process.treewatch import TreeWatch
from studio_runner.reports.base import Reports
from studio_runner.reports.databases import Databases
from studio_runner.runner.directory import Premises
from studio_runner.runner.opener import Opener
from studio_runner.runner.policy import Policy
from studio_runner.runner.replays import Replays
from studio_runner.runner.starts import Starts
from studio_runner.storage.cache import ArtifactCache
from studio_runner.storage.registry import Stores


@dataclass(frozen=True)
class Identity:
    """Who this runner is: the machine's name, and an id of this process that is never used again."""

    host: str
    runner: str


def identify() -> Identity:
    """A fresh identity for this process."""
    host = socket.gethostname()
    return Identity(host=host, runner=f"{host}-{os.getpid()}-{uuid.uuid4().hex[:8]}")


@dataclass(frozen=True)
class Host:
    """The runner's parts, as an attempt sees them."""

    identity: Identity
    premises: Premises
    settings: Settings
    variables: Mapping[str, str]
    """The runner's own environment; `inherited` is the part of it that every experiment gets."""
    inherited: Mapping[str, str]
    ledger: Ledger
    gpus: Warden
    starts: Starts
    groups: Groups
    trees: TreeWatch
    disks: DiskWatch
    spawner: Spawner
    environments: EnvironmentProvider
    images: Images
    containers: Containers
    readiness: Readiness
    policy: Policy
    opener: Opener
    replays: Replays
    reports: Reports
    stores: Stores
    artifact_cache: ArtifactCache | None
    databases: Databases
