"""The settings of a runner, in groups. Durations are seconds, sizes bytes; 0 means no limit unless said otherwise.

Values come from `config.cascade` (packaged `defaults.toml`, then file, environment, flags); nothing here reads
the environment.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from studio_runner.config.responses import is_response


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
    amqp_url: str
    """RabbitMQ, with user and password; empty: none is served."""
    amqp_management_url: str
    """Empty: the port of `amqp_url` + 10000."""
    amqp_queues: tuple[str, ...]
    """Served without asking the management API; empty: it is asked."""
    amqp_ca: Path | None
    amqp_cert: Path | None
    amqp_key: Path | None
    cool_down: float
    """From a queue's deletion to the stop of its experiments."""
    sqs_certs: Path | None
    """Directory with AWS `credentials` and `config` files."""
    sqs_region: str
    sqs_endpoint: str
    sqs_prefix: str

    def serves(self, queue: str) -> bool:
        """Whether experiments of a queue of this name are taken."""
        unwanted = self.mismatch and re.search(self.mismatch, queue)
        return not unwanted and not is_response(queue) and re.search(self.match, queue) is not None

    @property
    def uses_sqs(self) -> bool:
        """Whether anything says that SQS is to be served."""
        return bool(self.sqs_certs or self.sqs_region or self.sqs_endpoint)


@dataclass(frozen=True)
class StorageSettings:
    """How remote stores are reached."""

    ca: Path | None = None
    """PEM file, besides the authorities that the machine trusts."""
    cert: Path | None = None
    key: Path | None = None
    scheme: str = "http"
    """`http` or `https`, for S3 endpoints of which nothing else tells it."""
    patience: float = 60.0
    """How long an operation is tried again that may yet succeed."""
    allow_env_secrets: bool = False
    """Fall back on the runner's own credentials."""
    directories: tuple[str, ...] = ()
    """Where messages may name files, besides the store; empty: see `config.reach`."""


@dataclass(frozen=True)
class MachineSettings:
    """What the runner may use of the machine; 0 means all there is."""

    max_cores: int
    max_mem: int
    max_disk: int
    cpu_only: bool
    """Use no GPUs: experiments that ask for some run without them."""
    cgroups: str = "auto"
    """`auto`: limits by control groups where they can be made; `off`: by watching only."""
    cpu_quota: bool = False
    """An experiment gets no more than its `cpus` even if cores are idle."""
    max_processes: int = 4096
    """Processes and threads of one experiment."""
    patience: float = 7200.0
    """How long others may pass an experiment that waits for room of which nobody can know when it comes."""


@dataclass(frozen=True)
class GpuSettings:
    """How the machine's GPUs are shared out."""

    slots: tuple[tuple[str, int], ...] = ()
    """By a card's name or a part of it, before the table of those that are known."""
    fractions: int = 1
    """Experiments that may share a card."""
    settling: float = 30.0
    """Time a card has, after an experiment, until its memory and processes are gone."""
    look: float = 10.0
    """Period of looking whether the cards are well."""
    probation: float = 600.0
    """Time that a card must be quiet after its driver reported a fault."""


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
    mask_output: bool = False
    """Secrets are hidden in the stored output too, not only where it is shown."""


@dataclass(frozen=True)
class ContainerSettings:
    """Experiments that bring a container image."""

    use: str
    """`allowed` or `refused`."""
    require: bool
    """Experiments without an image are left to other runners."""
    sources: tuple[str, ...]
    """Patterns of addresses that images may come from; empty: any."""
    registry_auth: Path | None
    """File with logins at registries, in Docker's form."""
    plain_http: tuple[str, ...]
    """Registries (`HOST[:PORT]`) that are spoken to without TLS."""
    pull_timeout: float
    recheck: float
    """After this long a registry is asked again what a tag means."""
    unpack: str
    """Whether image files are unpacked once: `auto` (where they cannot be mounted), `always` or `never`."""
    runtime: Path | None
    """The program; None: apptainer or singularity, whichever PATH has."""
    network: bool
    """They have the host's; otherwise none at all."""
    environments: bool
    """Requirements are installed for the image's own interpreter; otherwise the image must have what it needs."""


@dataclass(frozen=True)
class CacheSettings:
    """Byte budgets of what is kept between experiments."""

    environments: int
    artifacts: int
    images: int


@dataclass(frozen=True)
class TrustSettings:
    """Whose messages are believed, and for whom reports are sealed."""

    encrypt_dir: Path | None = None
    """`encryption/ssh-privatekey` and `passphrase/ssh-passphrase` in it open messages; None: none can be opened."""
    request_signatures_dir: Path | None = None
    """Ed25519 keys of senders; a queue whose name begins like one of the files takes signed messages only."""
    response_signatures_dir: Path | None = None
    """RSA keys of those who read reports, by the beginnings of queue names."""
    clear_text_messages: bool = False
    """Messages in clear text are read although there is a key for encrypted ones."""

    @property
    def reads_clear_text(self) -> bool:
        """Whether a message in clear text is read at all."""
        return self.clear_text_messages or self.encrypt_dir is None


@dataclass(frozen=True)
class ReportSettings:
    """Who is told of experiments besides their records. All of these are secrets."""

    slack_url: str
    slack_token: str
    webhooks: tuple[str, ...]


@dataclass(frozen=True)
class HttpSettings:
    """The HTTP side; an empty `address` means none."""

    address: str
    token: str
    allow_remote: bool
    """Bind beyond loopback without a token."""
    private: bool = False
    """The token is needed to read as well, from this machine too."""


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
    storage: StorageSettings
    machine: MachineSettings
    gpus: GpuSettings
    limits: LimitSettings
    experiments: ExperimentSettings
    containers: ContainerSettings
    caches: CacheSettings
    trust: TrustSettings
    reports: ReportSettings
    http: HttpSettings
    log: LogSettings
