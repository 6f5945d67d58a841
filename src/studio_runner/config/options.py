"""Every setting once: its key, what it accepts, its flag, its variables, and the sentence people read about it."""

from dataclasses import dataclass
from functools import cached_property

from studio_runner.config import kinds
from studio_runner.config.kinds import Kind

PREFIX = "STUDIO_RUNNER_"


@dataclass(frozen=True)
class Option:
    """One setting. `flags` without dashes, the first is the one that is shown; `reference` is the name that an
    existing StudioML runner has for it, as a flag and, in capitals, as a variable."""

    key: str
    kind: Kind
    help: str
    flags: tuple[str, ...]
    reference: str | None = None
    variable: str | None = None
    secret: bool = False

    @cached_property
    def flag(self) -> str | None:
        return f"--{self.flags[0]}" if self.flags else None

    @cached_property
    def variables(self) -> tuple[str, ...]:
        """Environment variables, the strongest first."""
        ours = PREFIX + variable_name(self.flags[0] if self.flags else self.key.replace(".", "-"))
        others = (self.variable, variable_name(self.reference) if self.reference else None)
        return (ours, *(name for name in others if name))

    @property
    def group(self) -> str:
        return self.key.partition(".")[0]

    @property
    def name(self) -> str:
        return self.key.partition(".")[2]


def variable_name(flag: str) -> str:
    return flag.upper().replace("-", "_")


def _option(  # noqa: PLR0913  a row of the table below
    key: str,
    kind: Kind,
    *flags: str,
    help: str,  # noqa: A002  the word for it
    reference: str | None = None,
    variable: str | None = None,
    secret: bool = False,
) -> Option:
    return Option(key, kind, help, flags, reference, variable, secret)


def _drop_in(key: str, kind: Kind, flag: str, help: str) -> Option:  # noqa: A002  the word for it
    """A setting that has the reference's own name."""
    return Option(key, kind, help, (flag,), reference=flag)


OPTIONS: tuple[Option, ...] = (
    _option("places.home", kinds.PATH, "home", variable="STUDIOML_HOME",
            help="StudioML's directory, where queue, store and working directory are unless told otherwise."),
    _drop_in("places.queue_root", kinds.PATH, "queue-root", "Directory with one subdirectory per queue."),
    _drop_in("places.working_dir", kinds.PATH, "working-dir", "Experiments run in a subdirectory of this one."),
    _drop_in("places.cache_dir", kinds.PATH, "cache-dir", "Environments are kept here between experiments."),
    _option("places.store", kinds.PATH, "store",
            help="Directory of the artifacts and experiment records of experiments submitted from here."),
    _drop_in("queues.match", kinds.PATTERN, "queue-match", "Serve the queues whose names match."),
    _drop_in("queues.mismatch", kinds.PATTERN, "queue-mismatch", "Leave the queues alone whose names match."),
    _option("queues.lease", kinds.PERIOD, "lease",
            help="A runner that gives no sign of life for this long loses what it had claimed."),
    _option("queues.poll", kinds.PERIOD, "poll",
            help="Longest time between two looks at a queue directory (for file systems that do not notify)."),
    _option("queues.deliveries", kinds.TIMES, "deliveries",
            help="How often an experiment is tried when machine or storage fail; then it becomes a dead letter."),
    _drop_in("queues.amqp_url", kinds.URL, "amqp-url",
             "RabbitMQ to take experiments from: amqp://USER:PASSWORD@HOST[:PORT]/[VHOST], or amqps://."),
    _option("queues.amqp_management_url", kinds.URL, "amqp-mgt-url", reference="amqp-mgt-url",
            help="RabbitMQ's management API, which tells of the queues; else its usual port on that host."),
    _option("queues.amqp_queues", kinds.NAMES, "amqp-queues",
            help="Queues to serve where there is no management API to ask."),
    _option("queues.amqp_ca", kinds.OPTIONAL_PATH, "amqp-ca",
            help="Certificate authority (PEM) of a RabbitMQ that is reached by amqps://."),
    _option("queues.amqp_cert", kinds.OPTIONAL_PATH, "amqp-cert", help="Certificate (PEM) to show to RabbitMQ."),
    _option("queues.amqp_key", kinds.OPTIONAL_PATH, "amqp-key", help="Private key (PEM) of that certificate."),
    _option("queues.cool_down", kinds.DURATION, "cool-down",
            help="How long a queue must have been deleted before its experiments are stopped."),
    _option("queues.sqs_certs", kinds.OPTIONAL_PATH, "sqs-certs", reference="sqs-certs",
            help="Directory with AWS `credentials` and `config` files for SQS."),
    _option("queues.sqs_region", kinds.TEXT, "sqs-region",
            help="Serve SQS queues of this region, with the credentials that AWS tools find."),
    _option("queues.sqs_endpoint", kinds.URL, "sqs-endpoint", help="Serve a service that is compatible with SQS."),
    _option("queues.sqs_prefix", kinds.TEXT, "sqs-prefix", help="Beginning of the names of SQS queues to look at."),
    _option("storage.ca", kinds.OPTIONAL_PATH, "s3-ca", reference="s3-ca",
            help="Certificate authority (PEM) of S3 endpoints."),
    _option("storage.cert", kinds.OPTIONAL_PATH, "s3-cert", reference="s3-cert",
            help="Certificate (PEM) to show to S3 endpoints."),
    _option("storage.key", kinds.OPTIONAL_PATH, "s3-key", reference="s3-key",
            help="Private key (PEM) of that certificate."),
    _option("storage.scheme", kinds.HTTP_SCHEME, "s3-scheme",
            help="How S3 endpoints are spoken to that neither the message nor their name tells of."),
    _option("storage.patience", kinds.DURATION, "storage-patience",
            help="How long a store that is busy or does not answer is asked again before an attempt fails of it."),
    _drop_in("storage.allow_env_secrets", kinds.SWITCH, "allow-env-secrets",
             "Open stores for which a message has no credentials with the runner's own."),
    _option("storage.directories", kinds.NAMES, "storage-directories",
            help="Directories that messages may name files in, besides the store; none given: any, or where "
            "containers are required no other."),
    _drop_in("machine.max_cores", kinds.COUNT, "max-cores", "Cores that experiments may have; 0: all."),
    _drop_in("machine.max_mem", kinds.SIZE, "max-mem", "Memory that experiments may have; 0: all."),
    _drop_in("machine.max_disk", kinds.SIZE, "max-disk", "Disk that experiments may have; 0: all that is free."),
    _drop_in("machine.cpu_only", kinds.SWITCH, "cpu-only",
             "Run experiments that ask for GPUs without them; otherwise they are left to other runners."),
    _option("gpus.slots", kinds.SLOTS, "gpu-slots",
            help="Slots of a card, by its name or a part of it, where the table of known cards does not suit."),
    _option("gpus.fractions", kinds.TIMES, "gpu-fractions",
            help="How many experiments may share a GPU; each has that part of its slots and memory."),
    _option("gpus.settling", kinds.DURATION, "gpu-settling",
            help="Time a GPU has to become clean after an experiment; then it is set aside until it is."),
    _option("gpus.look", kinds.PERIOD, "gpu-look", help="Period of looking whether the GPUs are well."),
    _option("gpus.probation", kinds.DURATION, "gpu-probation",
            help="Time that a GPU is set aside after its driver reported a fault of it (Xid)."),
    _option("machine.cgroups", kinds.CGROUPS, "cgroups",
            help="Hold experiments to their limits by control groups where they can be made, or never."),
    _option("machine.cpu_quota", kinds.SWITCH, "cpu-quota",
            help="Give an experiment no more than the cores it asked for, even if others are idle."),
    _option("machine.max_processes", kinds.COUNT, "max-processes",
            help="Processes and threads that one experiment may have at once; 0: no limit."),
    _option("machine.patience", kinds.DURATION, "patience",
            help="How long others may pass an experiment that waits for room of which nobody knows when it comes."),
    _drop_in("limits.tasks", kinds.COUNT, "limit-tasks",
             "End after this many experiments, rejected messages not counted; 0: never."),
    _drop_in("limits.idle_duration", kinds.DURATION, "limit-idle-duration",
             "End after this long without work; 0: never."),
    _drop_in("limits.interval", kinds.DURATION, "limit-interval",
             "Least time between the starts of two experiments."),
    _option("experiments.grace", kinds.DURATION, "grace",
            help="Time an experiment has between being asked to stop (SIGTERM) and being killed."),
    _option("experiments.finish_timeout", kinds.DURATION, "finish-timeout",
            help="Time the last upload of an experiment may take."),
    _option("experiments.output_limit", kinds.SIZE, "output-limit",
            help="Size of the stored output; beyond it the middle is left out. 0: no limit."),
    _option("experiments.stop_poll", kinds.PERIOD, "stop-poll",
            help="Period of looking whether the sender asked for the experiment to be stopped."),
    _option("experiments.keep", kinds.SWITCH, "keep", help="Leave the directories of finished attempts in place."),
    _drop_in("experiments.generate_metadata", kinds.SWITCH, "generate-metadata",
             "Collect the JSON lines of the output into the _metadata artifact."),
    _drop_in("experiments.schema_logs", kinds.SWITCH, "schema-logs",
             "Append the other lines of the output to the metadata document as well."),
    _option("experiments.mask_output", kinds.SWITCH, "mask-output",
            help="Hide secrets in the stored output as well; they are always hidden where output is shown."),
    _option("containers.use", kinds.USE, "containers",
            help="Whether experiments may bring a container image; refused: they are left to other runners."),
    _option("containers.require", kinds.SWITCH, "require-container",
            help="Leave experiments that bring no container image to other runners."),
    _option("containers.sources", kinds.NAMES, "container-sources",
            help="Addresses that images may come from, such as docker://ghcr.io/team/*; none: any."),
    _option("containers.registry_auth", kinds.OPTIONAL_PATH, "registry-auth",
            help="File with logins at registries of images, as `docker login` writes it."),
    _option("containers.plain_http", kinds.NAMES, "plain-http-registries",
            help="Registries (HOST[:PORT]) that are spoken to without TLS."),
    _option("containers.pull_timeout", kinds.DURATION, "pull-timeout",
            help="Time that fetching an image may take; 0: any."),
    _option("containers.recheck", kinds.DURATION, "image-recheck",
            help="How long a tag is taken for what it was; then its registry is asked again."),
    _option("containers.unpack", kinds.UNPACK, "unpack-images",
            help="Unpack image files once; auto: where this account cannot mount them."),
    _option("containers.runtime", kinds.OPTIONAL_PATH, "container-runtime",
            help="The program that runs containers; else apptainer or singularity, whichever is found."),
    _option("containers.network", kinds.SWITCH, "container-network",
            help="Let containers use this machine's network; otherwise they have none."),
    _option("containers.environments", kinds.SWITCH, "container-environments",
            help="Install requirements (pythonenv) for a container's own Python; otherwise they are left out."),
    _option("caches.environments", kinds.SIZE, "environment-cache-size",
            help="Size that the cached environments may have together; 0: no limit."),
    _option("caches.artifacts", kinds.SIZE, "cache-size", reference="cache-size",
            help="Size that the cached immutable artifacts may have together; 0: none are kept."),
    _option("caches.images", kinds.SIZE, "image-cache-size",
            help="Size that the cached container images may have together; 0: no limit."),
    _option("trust.encrypt_dir", kinds.OPTIONAL_PATH, "encrypt-dir", reference="encrypt-dir",
            help="Directory with the RSA key that opens encrypted messages, and its passphrase."),
    _option("trust.request_signatures_dir", kinds.OPTIONAL_PATH, "request-signatures-dir",
            reference="request-signatures-dir",
            help="Directory with the Ed25519 keys of senders, files named by beginnings of queue names."),
    _option("trust.response_signatures_dir", kinds.OPTIONAL_PATH, "response-signatures-dir",
            reference="response-signatures-dir",
            help="Directory with the RSA keys of readers of reports, files named by beginnings of queue names."),
    _drop_in("trust.clear_text_messages", kinds.SWITCH, "clear-text-messages",
             "Read messages in clear text as well; always so where there is no key for encrypted ones."),
    # no flags for what opens something: a command line can be read by everybody on the machine
    _option("reports.slack_url", kinds.URL, secret=True,
            help="Incoming webhook of Slack: where a message's slack_destination is told of start and end."),
    _option("reports.slack_token", kinds.TEXT, secret=True, help="Token of a Slack app, instead of a webhook."),
    _option("reports.webhooks", kinds.NAMES, secret=True,
            help="Addresses that get a JSON body when an experiment starts and ends."),
    _option("http.address", kinds.ADDRESS, "http-address", "prom-address", reference="prom-address",
            help="Where the HTTP side listens; none: nowhere."),
    # no flag: a command line can be read by everybody on the machine
    _option("http.token", kinds.TEXT, secret=True,
            help="Token that HTTP clients must send: to change anything, and from other machines also to read."),
    _option("http.allow_remote", kinds.SWITCH, "http-allow-remote",
            help="Listen on other interfaces than the loopback although there is no token."),
    _option("http.private", kinds.SWITCH, "http-private",
            help="Ask for the token before anything is read, from this machine as well: experiments run on it."),
    _option("log.level", kinds.LEVEL, "log-level", help="How much the runner says on standard error."),
    _option("log.format", kinds.LOG_FORMAT, "log-format", help="Lines for people, or one JSON object per line."),
)  # fmt: skip

BY_KEY: dict[str, Option] = {option.key: option for option in OPTIONS}

NOT_HERE: dict[str, str] = {
    "k8s-namespace": "Kubernetes control is not part of this release",
    "k8s-configmap": "Kubernetes control is not part of this release",
}
"""Names of the reference that would be a lie to accept, and what to tell whoever uses them."""
