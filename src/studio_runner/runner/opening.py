"""Opening a host: clear up after the dead, then start what attempts share."""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

from studio_runner.config.settings import Settings
from studio_runner.environments.virtualenv import VirtualenvProvider
from studio_runner.machine.inventory import inventory
from studio_runner.machine.ledger import Ledger
from studio_runner.process.environ import clean_environment
from studio_runner.process.spawn import Spawner
from studio_runner.reports.base import Reporter, Reports
from studio_runner.reports.recorder import Recorder
from studio_runner.reports.records import Records
from studio_runner.runner.directory import occupied
from studio_runner.runner.host import Host, Identity
from studio_runner.runner.recovery import recover
from studio_runner.runner.scatter import scatter
from studio_runner.runner.starts import Starts
from studio_runner.storage.registry import Stores


@asynccontextmanager
async def opened_host(
    settings: Settings, identity: Identity, listeners: Sequence[Reporter] = ()
) -> AsyncIterator[Host]:
    """The host of this process until the context ends; `listeners` hear of events besides the records."""
    places = settings.places
    places.working_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with occupied(places.working_dir, identity.runner) as premises:
        await recover(places.working_dir)
        scatter(places.working_dir / "experiments")
        scatter(places.store / "experiments")
        variables = dict(os.environ)
        async with (
            Spawner() as spawner,
            VirtualenvProvider(places.cache_dir, settings.caches.environments, spawner, variables) as environments,
            aclosing(Stores(settings.storage)) as stores,
        ):
            yield Host(
                identity=identity,
                premises=premises,
                settings=settings,
                variables=variables,
                inherited=clean_environment(variables),
                ledger=Ledger(inventory(settings.machine, places.working_dir)),
                starts=Starts(),
                spawner=spawner,
                environments=environments,
                reports=Reports([Recorder(Records.in_directory(places.store / "db")), *listeners]),
                stores=stores,
            )
