"""The settings of a runner, in groups. Durations are seconds, sizes bytes; 0 means no limit unless said otherwise.

Values come from `config.cascade` (packaged `defaults.toml`, then file, environment, flags); nothing here reads
the environment.
"""

import re
from dataclasses import dataclass
from pathlib import Path

RESPONSE = "_response"
"""Queues of this ending carry reports, never experiments."""


@dataclass(frozen=True)
class Places:
    """Directories. `home` is StudioML's (`$STUDIOML_HOME`, else `~/.studioml`)."""

    home: Path
    queue_root: Path
    working_dir: Path
    """Attempts run in `<working_dir>/experiments/<short key>.<n>`."""
    cache_dir: Path
    """Environments and artifacts that are kept between experiments."""
    store: Path
    """Where the embedded default keeps artifacts and experiment records."""


@dataclass(frozen=True)
class QueueSettings:
    """Which queues are served and how."""

    match: str
    """Regular expression of queue names to serve."""
    mismatch: str
    """Regular expression of queue names to leave alone; empty: none."""
    lease: float
    """After this long without a heartbeat a claim counts as abandoned."""
    poll: float
    """Longest time between two looks at a queue directory, for file systems that do not notify."""
    deliveries: int
    """Times a message is tried before infrastructure failures make it a dead letter."""

    def serves(self, queue: str) -> bool:
        """Whether experiments of a queue of this name are taken."""
        unwanted = self.mismatch and re.search(self.mismatch, queue)
        return not unwanted and not queue.endswith(RESPONSE) and re.search(self.match, queue) is not None


@dataclass(frozen=True)
class MachineSettings:
    """What the runner may use of the machine; 0 means all there is."""

    max_cores: int
    max_mem: int
    max_disk: int
    cpu_only: bool
    """Use no GPUs: experiments that ask for some run without them."""


@dataclass(frozen=True)
class LimitSettings:
    """When the daemon ends by itself."""

    tasks: int
    """Experiments to run, then end (`--limit-tasks`)."""
    idle_duration: float
    """Time without work, then end (`--limit-idle-duration`)."""
    interval: float
    """Least time between the starts of two experiments (`--limit-interval`)."""


@dataclass(frozen=True)
class ExperimentSettings:
    """How experiments are run."""

    grace: float
    """From SIGTERM to SIGKILL when an experiment is stopped."""
    finish_timeout: float
    """For the final upload of one experiment."""
    output_limit: int
    """Size of the stored output; beyond it the middle is left out."""
    stop_poll: float
    """Period of looking for a stop request in the `_status` artifact."""
    keep: bool
    """Leave the directories of finished attempts in place."""
    generate_metadata: bool
    """Collect the JSON lines of the output into the `_metadata` artifact."""
    schema_logs: bool
    """Append every line of output to the metadata document as well."""


@dataclass(frozen=True)
class CacheSettings:
    """Byte budgets of what is kept between experiments."""

    environments: int


@dataclass(frozen=True)
class HttpSettings:
    """The HTTP side; an empty `address` means none."""

    address: str
    token: str
    allow_remote: bool
    """Bind beyond loopback without a token."""


@dataclass(frozen=True)
class LogSettings:
    """The runner's own log on standard error."""

    level: str
    format: str
    """`text` or `json`."""


@dataclass(frozen=True)
class Settings:
    """All of it."""

    places: Places
    queues: QueueSettings
    machine: MachineSettings
    limits: LimitSettings
    experiments: ExperimentSettings
    caches: CacheSettings
    http: HttpSettings
    log: LogSettings
