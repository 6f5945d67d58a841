"""Experiments through RabbitMQ and S3: how long from a published message to the first line of the user's code, and
how many trivial ones a second."""

import statistics
import time
from collections.abc import Iterator

from bench.dispatch import bare_starts
from bench.remote import QUEUE, Cluster, cluster
from bench.result import Result
from bench.rig import MARK, spread

OVER_BARE_MS = 45.0
RATE = 15.0


def run(scale: float) -> Iterator[Result]:
    with cluster() as site:
        yield _latency(site, max(10, int(60 * scale)))
        yield _throughput(site, max(30, int(300 * scale)), rounds=max(1, round(3 * scale)))


def _latency(site: Cluster, runs: int) -> Result:
    with site.running():
        bare = list(bare_starts(site.made, runs))
        ours = list(_dispatched(site, runs))
    over = statistics.median(ours) - statistics.median(bare)
    return Result(
        name="published to RabbitMQ to first line, warm, S3",
        value=statistics.median(ours),
        unit="ms",
        bare=statistics.median(bare),
        bare_name="bare interpreter to first line",
        ratio=statistics.median(ours) / statistics.median(bare),
        target=f"<= bare + {OVER_BARE_MS:g} ms",
        met=over <= OVER_BARE_MS,
        detail={**spread(ours), "over_bare": over},
    )


def _dispatched(site: Cluster, runs: int) -> Iterator[float]:
    """Milliseconds from before the publish."""
    workspace = site.workspace(MARK)
    key, body = site.request(workspace)
    site.publisher.publish(QUEUE, [body])
    site.wait([key])  # the workspace is in the cache
    for _ in range(runs):
        key, body = site.request(workspace)
        published = site.publisher.publish(QUEUE, [body])
        site.wait([key])
        yield (float(site.output(key).split()[0]) - published) * 1000
        time.sleep(0.05)


def _throughput(site: Cluster, amount: int, rounds: int) -> Result:
    rates = []
    workspace = site.workspace(MARK)
    for _ in range(rounds):
        requests = [site.request(workspace) for _ in range(amount)]
        with site.running("--max-cores", "2"):
            started = site.publisher.publish(QUEUE, [body for _, body in requests])
            rates.append(amount / (site.wait([key for key, _ in requests]) - started))
    rate = statistics.median(rates)
    return Result(
        name="trivial experiments per second, RabbitMQ and S3",
        value=rate,
        unit="1/s",
        target=f">= {RATE:g} /s",
        met=rate >= RATE,
        detail=spread(rates),
    )
