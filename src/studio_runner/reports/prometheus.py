"""Figures for Prometheus: what happened, counted as it happens, and how things stand, looked up when asked.

Names with the prefix `runner_` are those that existing dashboards ask for (INTERFACE section 10); ours begin with
`studio_runner_`. The number of series is bounded: only what runs, and an artifact in the cache, has one of its own.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, UnknownMetricFamily

from studio_runner.errors import Reason
from studio_runner.machine.inventory import Capacity
from studio_runner.reports.base import Ended, Event, StageEntered, Started, Subject

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

MOST_PROJECTS = 200
"""Pairs of project and queue that are counted apart; experiments of further ones count for `OTHER`."""
OTHER = "(other)"
MOST_OPEN = 10_000
"""Attempts whose stage is remembered; an attempt that never reported its end must not stay for ever."""

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)
_KNOWN_TIME = 10.0
"""A `time_added` below this means that nobody knows it (INTERFACE section 1)."""
_QUEUE_TYPES = frozenset({"local", "rmq", "sqs"})
_QUEUE = ("host", "queue_type", "queue_name")
_PROJECT = ("host", "project", "experiment", "queue_type", "queue_name")


@dataclass(frozen=True)
class CacheFigures:
    """The cache of environments or container images; `size` in bytes."""

    hits: int
    misses: int
    size: int


@dataclass(frozen=True)
class ArtifactFigures:
    """The cache of artifacts: uses by the name that an artifact has in it. Whoever counts keeps the number of names
    bounded."""

    hits: Mapping[str, int] = field(default_factory=dict)
    misses: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class QueueFigures:
    """One queue: how often it was found (or not), its messages looked at, left and rejected, and how many it has by
    state."""

    name: str
    found: int = 0
    failed: int = 0
    checked: int = 0
    ignored: int = 0
    rejected: int = 0
    messages: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class GpuFigures:
    """One GPU: its state, why it is set aside, and the keys of the experiments that have it."""

    uuid: str
    name: str
    state: str
    trouble: str = ""
    experiments: Sequence[str] = ()


@dataclass(frozen=True)
class HoldFigures:
    """Room that is held free for a message. `waited`: seconds; `left`: how often another was left for its sake."""

    queue: str
    share: Capacity
    waited: float
    left: int


@dataclass(frozen=True)
class Standing:
    """How things stand at the moment of a scrape."""

    host: str
    total: Capacity
    free: Capacity
    draining: bool
    running: Sequence[Subject]
    queues: Sequence[QueueFigures]
    environments: CacheFigures
    images: CacheFigures = CacheFigures(0, 0, 0)
    artifacts: ArtifactFigures = ArtifactFigures()
    gpus: Sequence[GpuFigures] = ()
    held: HoldFigures | None = None


class Metrics:
    """A reporter that counts; `exposition` writes all figures as Prometheus reads them."""

    def __init__(self) -> None:
        self._stages: dict[str, tuple[str, float]] = {}
        self._ended = dict.fromkeys(Reason, 0)
        self._completed: dict[tuple[str, str], int] = {}
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._stage_seconds = Histogram(
            "studio_runner_stage_seconds",
            "Time that attempts spent in a stage.",
            ["stage"],
            registry=self._registry,
            buckets=_SECONDS,
        )
        self._to_run = Histogram(
            "studio_runner_time_to_run_seconds",
            "From the submission of an experiment to the start of its script, first attempts.",
            registry=self._registry,
            buckets=_SECONDS,
        )

    async def report(self, event: Event) -> None:
        match event:
            case Started():
                self._enter(event.subject.key, "prepare", event.at)
            case StageEntered():
                self._enter(event.subject.key, event.stage, event.at)
                if event.stage == "run" and event.subject.number == 1:
                    self._observe_wait(event)
            case Ended():
                self._leave(event.subject.key, event.at)
                self._ended[event.reason] += 1
                if event.final:
                    self._complete(event.subject)

    def exposition(self, standing: Standing) -> bytes:
        """Everything, in the text format (`CONTENT_TYPE`)."""
        now = CollectorRegistry()
        now.register(_Collected([*_standing(standing), self._attempts(), self._completions(standing.host)]))
        return generate_latest(self._registry) + generate_latest(now)

    def _enter(self, key: str, stage: str, at: float) -> None:
        self._leave(key, at)
        self._stages[key] = (stage, at)
        if len(self._stages) > MOST_OPEN:
            del self._stages[next(iter(self._stages))]

    def _leave(self, key: str, at: float) -> None:
        if entered := self._stages.pop(key, None):
            stage, since = entered
            self._stage_seconds.labels(stage).observe(max(0.0, at - since))

    def _observe_wait(self, event: StageEntered) -> None:
        added = event.subject.experiment.get("time_added")
        if isinstance(added, int | float) and added > _KNOWN_TIME:
            self._to_run.observe(max(0.0, event.at - added))

    def _complete(self, subject: Subject) -> None:
        where = (subject.project, subject.queue)
        if where not in self._completed and len(self._completed) >= MOST_PROJECTS:
            where = (OTHER, OTHER)
        self._completed[where] = self._completed.get(where, 0) + 1

    def _attempts(self) -> Metric:
        family = CounterMetricFamily("studio_runner_attempts", "Attempts that ended.", labels=("reason",))
        for reason, count in self._ended.items():
            family.add_metric((reason.value,), count)
        return family

    def _completions(self, host: str) -> Metric:
        """Without the experiment's key: a series per experiment would stay for ever."""
        family = UnknownMetricFamily("runner_project_completed", "Experiments that are over.", labels=_PROJECT)
        for (project, queue), count in self._completed.items():
            family.add_metric((host, project, "", queue_type(queue), queue), count)
        return family


class _Collected:
    """Families that are there already, as a registry wants them."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)
        for family in self._families:
            family.samples = [
                sample._replace(labels={name: _sendable(value) for name, value in sample.labels.items()})
                for sample in family.samples
            ]

    def collect(self) -> Iterable[Metric]:
        return self._families


def queue_type(queue: str) -> str:
    """`rmq` of `rmq_gpu`; a queue whose name says nothing is a directory (`local`)."""
    named = queue.partition("_")[0]
    return named if named in _QUEUE_TYPES else "local"


def _standing(standing: Standing) -> Iterator[Metric]:
    yield from _machine(standing)
    yield from _gpus(standing.gpus)
    yield _running(standing.host, standing.running)
    yield from _queues(standing.host, standing.queues)
    yield from _artifacts(standing.host, standing.artifacts)
    yield from _cache("environment", "built", standing.environments)
    yield from _cache("image", "fetched", standing.images)


def _cache(kind: str, made: str, cache: CacheFigures) -> Iterator[Metric]:
    name = f"studio_runner_{kind}_cache"
    yield CounterMetricFamily(f"{name}_hits", f"{kind.capitalize()}s that were there already.", cache.hits)
    yield CounterMetricFamily(f"{name}_misses", f"{kind.capitalize()}s that had to be {made}.", cache.misses)
    yield GaugeMetricFamily(f"{name}_bytes", f"Size of all {kind}s that are kept.", cache.size)


def _machine(standing: Standing) -> Iterator[Metric]:
    for name, unit in (("cores", "cores"), ("memory", "memory_bytes"), ("disk", "disk_bytes")):
        total, free = getattr(standing.total, name), getattr(standing.free, name)
        yield GaugeMetricFamily(f"studio_runner_capacity_{unit}", f"What experiments may have ({name}).", total)
        yield GaugeMetricFamily(f"studio_runner_reserved_{unit}", f"What experiments have ({name}).", total - free)
    yield GaugeMetricFamily("studio_runner_draining", "1 when nothing new is taken.", int(standing.draining))
    yield from _hold(standing.held)


def _hold(held: HoldFigures | None) -> Iterator[Metric]:
    """Without the experiment's key: a series per experiment would stay for ever."""
    figures: dict[str, tuple[str, Callable[[HoldFigures], float]]] = {
        "cores": ("Cores that the message needs for which room is held free.", lambda one: one.share.cores),
        "memory_bytes": ("Memory that it needs.", lambda one: one.share.memory),
        "seconds": ("How long it has waited for room.", lambda one: one.waited),
        "passed_over": ("How often another message was left for its sake.", lambda one: one.left),
    }
    for name, (about, value) in figures.items():
        family = GaugeMetricFamily(f"studio_runner_held_{name}", about, labels=("queue_type", "queue_name"))
        if held is not None:
            family.add_metric((queue_type(held.queue), held.queue), value(held))
        yield family


def _gpus(gpus: Sequence[GpuFigures]) -> Iterator[Metric]:
    """The number of series is bounded by that of the cards, and of the experiments that share them."""
    held = sum(bool(gpu.experiments) for gpu in gpus)
    yield GaugeMetricFamily("studio_runner_capacity_gpus", "GPUs of this runner, well or not.", len(gpus))
    yield GaugeMetricFamily("studio_runner_reserved_gpus", "GPUs that experiments have.", held)
    states = GaugeMetricFamily("studio_runner_gpus", "GPUs by state.", labels=("state",))
    for state in ("free", "in_use", "settling", "set_aside"):
        states.add_metric((state,), sum(gpu.state == state for gpu in gpus))
    aside = GaugeMetricFamily("studio_runner_gpu_set_aside", "1 while it is.", labels=("gpu", "name", "reason"))
    holders = GaugeMetricFamily(
        "studio_runner_gpu_reserved", "1 for each experiment that has it.", labels=("gpu", "name", "experiment")
    )
    for gpu in gpus:
        if gpu.trouble:
            aside.add_metric((gpu.uuid, gpu.name, gpu.trouble), 1)
        for key in gpu.experiments:
            holders.add_metric((gpu.uuid, gpu.name, key), 1)
    yield from (states, aside, holders)


def _running(host: str, subjects: Sequence[Subject]) -> Metric:
    family = GaugeMetricFamily("runner_project_running", "Experiments that run now.", labels=_PROJECT)
    for subject in subjects:
        labels = (host, subject.project, subject.key, queue_type(subject.queue), subject.queue)
        family.add_metric(labels, 1)
    return family


def _queues(host: str, queues: Sequence[QueueFigures]) -> Iterator[Metric]:
    counted = {
        "runner_queue_refresh_success": ("Times the queue was found.", [one.found for one in queues]),
        "runner_queue_refresh_fail": ("Times the queue could not be read.", [one.failed for one in queues]),
        "runner_queue_checked": ("Times a message of the queue was looked at.", [one.checked for one in queues]),
        "runner_queue_ignored": ("Times a message was left where it is.", [one.ignored for one in queues]),
    }
    for name, (about, values) in counted.items():
        # not counters to the library, which would put `_total` behind the names that dashboards know
        family = UnknownMetricFamily(name, about, labels=_QUEUE)
        for queue, value in zip(queues, values, strict=True):
            family.add_metric((host, queue_type(queue.name), queue.name), value)
        yield family
    rejected = CounterMetricFamily(
        "studio_runner_queue_rejected", "Messages that must not be run.", labels=("queue_type", "queue_name")
    )
    depth = GaugeMetricFamily(
        "studio_runner_queue_messages", "Messages by state.", labels=("queue_type", "queue_name", "state")
    )
    for queue in queues:
        rejected.add_metric((queue_type(queue.name), queue.name), queue.rejected)
        for state, count in queue.messages.items():
            depth.add_metric((queue_type(queue.name), queue.name, state), count)
    yield from (rejected, depth)


def _artifacts(host: str, figures: ArtifactFigures) -> Iterator[Metric]:
    counted = {
        "runner_cache_hits": ("Times an artifact was in the cache.", figures.hits),
        "runner_cache_misses": ("Times an artifact had to be fetched.", figures.misses),
    }
    for name, (about, counts) in counted.items():
        family = UnknownMetricFamily(name, about, labels=("host", "hash"))
        for artifact, count in counts.items():
            family.add_metric((host, artifact), count)
        yield family


def _sendable(text: str) -> str:
    """Messages, and names of directories, may hold what is no text in UTF-8."""
    return text.encode(errors="backslashreplace").decode()
