"""Opening a host: clear up after the dead, then start what attempts share."""

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing

from studio_runner.config.reach import reach_of
from studio_runner.config.settings import Settings
from studio_runner.environments.containers.inside import Inside
from studio_runner.environments.containers.provider import Containers
from studio_runner.environments.containers.readiness import Readiness
from studio_runner.environments.containers.runtime import Runtimes
from studio_runner.environments.images.base import Images
from studio_runner.environments.images.provider import KeptImages
from studio_runner.environments.images.pull import Puller
from studio_runner.environments.programs import Programs
from studio_runner.environments.virtualenv import VirtualenvProvider
from studio_runner.machine.gpus.opening import no_warden, opened_warden
from studio_runner.machine.gpus.warden import Warden
from studio_runner.machine.inventory import Capacity, inventory
from studio_runner.machine.ledger import Ledger
from studio_runner.messages.masking import Secrets
from studio_runner.process.cgroups.files import Share
from studio_runner.process.cgroups.groups import Groups, opened_groups, room_for_all
from studio_runner.process.cgroups.hierarchy import Found, find, switched_off
from studio_runner.process.diskwatch import DiskWatch
from studio_runner.process.environ import clean_environment
from studio_runner.process.modes import make_directories
from studio_runner.process.spawn import Spawner
from studio_runner.process.treewatch import TreeWatch
from studio_runner.reports.base import Reporter, Reports
from studio_runner.reports.databases import Databases
from studio_runner.reports.opening import dashboard_address, opened_reporters
from studio_runner.runner.databases import databases
from studio_runner.runner.directory import occupied
from studio_runner.runner.host import Host, Identity
from studio_runner.runner.opener import Opener
from studio_runner.runner.policy import Policy
from studio_runner.runner.recovery import recover
from studio_runner.runner.replays import Replays
from studio_runner.runner.scatter import scatter
from studio_runner.runner.starts import Starts
from studio_runner.storage.cache import ArtifactCache
from studio_runner.storage.registry import Stores


@asynccontextmanager
async def opened_host(
    settings: Settings, identity: Identity, listeners: Sequence[Reporter] = (), secrets: Secrets | None = None
) -> AsyncIterator[Host]:
    """The host of this process until the context ends; `listeners` hear of events besides the records, `secrets`
    is the program's."""
    secrets = secrets or Secrets()
    places = settings.places
    for place in (places.working_dir, places.cache_dir):
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
    make_directories(str(places.store / "experiments"))
    with (
        occupied(places.working_dir, identity.runner) as premises,
        closing(Replays(places.working_dir)) as replays,
    ):
        found = switched_off() if settings.machine.cgroups == "off" else find()
        await recover(places, found)
        scatter(places.working_dir / "experiments")
        scatter(places.store / "experiments")
        variables = dict(os.environ)
        opener = Opener(settings.trust)
        opener.prepare()
        total = inventory(settings.machine, places.working_dir)
        async with (
            _opened_groups(found, identity, total) as groups,
            TreeWatch() as trees,
            DiskWatch() as disks,
            Spawner() as spawner,
            VirtualenvProvider(places.cache_dir, settings.caches.environments, spawner, variables) as environments,
            _opened_containers(settings, spawner, variables) as (images, containers, readiness),
            Stores(settings.storage, reach_of(settings)) as stores,
            _opened_cache(settings) as artifact_cache,
            _opened_reports(settings, identity, stores, secrets) as (kept, reporters),
            _opened_ledger(settings, variables, total) as (ledger, gpus),
        ):
            yield Host(
                identity=identity,
                premises=premises,
                settings=settings,
                secrets=secrets,
                variables=variables,
                inherited=clean_environment(variables),
                ledger=ledger,
                gpus=gpus,
                starts=Starts(),
                groups=groups,
                trees=trees,
                disks=disks,
                spawner=spawner,
                environments=environments,
                images=images,
                containers=containers,
                readiness=readiness,
                policy=Policy(settings.containers, readiness.runtime),
                opener=opener,
                replays=replays,
                reports=Reports([*reporters, *listeners]),
                stores=stores,
                artifact_cache=artifact_cache,
                databases=kept,
            )


@asynccontextmanager
async def _opened_ledger(
    settings: Settings, environ: Mapping[str, str], total: Capacity
) -> AsyncIterator[tuple[Ledger, Warden]]:
    """The machine's account, and who looks after its GPUs."""
    async with AsyncExitStack() as stack:
        if settings.machine.cpu_only:
            gpus = no_warden(settings.gpus)
        else:
            gpus = await stack.enter_async_context(opened_warden(settings.gpus, environ))
        ledger = Ledger(total, gpus.pool)
        await stack.enter_async_context(gpus.watching(ledger.changed))
        yield ledger, gpus


@asynccontextmanager
async def _opened_groups(found: Found, identity: Identity, total: Capacity) -> AsyncIterator[Groups]:
    """The control groups of this runner; its experiments leave it some memory."""
    share = Share(memory=room_for_all(found, total.memory), cores=total.cores)
    with opened_groups(found, identity.runner, share) as groups:
        yield groups


@asynccontextmanager
async def _opened_containers(
    settings: Settings, spawner: Spawner, variables: Mapping[str, str]
) -> AsyncIterator[tuple[Images, Containers, Readiness]]:
    """Images, and the containers that are made of them; one runtime pulls and runs them, if it can."""
    programs, cache, budget = Programs(spawner), settings.places.cache_dir, settings.caches.images
    runtimes = Runtimes(programs, settings.containers.runtime, variables)
    readiness = Readiness(runtimes, cache / "containers", network=settings.containers.network)
    puller = Puller(programs, runtimes.path, variables, budget)
    inside = (
        Inside(cache / "container-environments", settings.caches.environments, programs, variables)
        if settings.containers.environments
        else None
    )
    async with (
        KeptImages(cache, budget, settings.containers, puller) as images,
        Containers(cache, images, runtimes, inside) as containers,
    ):
        yield images, containers, readiness


@asynccontextmanager
async def _opened_cache(settings: Settings) -> AsyncIterator[ArtifactCache | None]:
    """The cache of artifacts, where it may have any size."""
    if not settings.caches.artifacts:
        yield None
        return
    async with ArtifactCache(settings.places.cache_dir / "artifacts", settings.caches.artifacts) as cache:
        yield cache


@asynccontextmanager
async def _opened_reports(
    settings: Settings, identity: Identity, stores: Stores, secrets: Secrets
) -> AsyncIterator[tuple[Databases, Sequence[Reporter]]]:
    """The records of this runner and of its senders, and everybody who is told of experiments."""
    kept = databases(settings.places.store / "db", stores)
    dashboard = dashboard_address(settings.http, identity.host)
    async with opened_reporters(settings.reports, kept, dashboard, secrets) as reporters:
        yield kept, reporters
