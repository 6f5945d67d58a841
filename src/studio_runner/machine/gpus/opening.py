"""Finding the cards that this runner may use."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass

from studio_runner.config.settings import GpuSettings
from studio_runner.machine.gpus.amd import Amd
from studio_runner.machine.gpus.card import AMD, NVIDIA, Card, Driver, MissingDriverError
from studio_runner.machine.gpus.health import Patience
from studio_runner.machine.gpus.nvml import opened_nvml
from studio_runner.machine.gpus.pool import Pool
from studio_runner.machine.gpus.slots import with_slots
from studio_runner.machine.gpus.visible import order_is_certain, visible
from studio_runner.machine.gpus.warden import ANSWER, Warden, in_thread

log = logging.getLogger(__name__)

DRIVERS: Mapping[str, Callable[[], Driver]] = {NVIDIA: opened_nvml, AMD: Amd}


@dataclass(frozen=True)
class Gpus:
    """The drivers that are here, and of those that are not why; the cards of the machine, and which of them are
    visible to this runner; and what has to be left out, a phrase each."""

    drivers: Mapping[str, Driver]
    missing: Mapping[str, MissingDriverError]
    machine: tuple[Card, ...]
    cards: tuple[Card, ...]
    left_out: tuple[str, ...]

    def pool(self, settings: GpuSettings) -> Pool:
        return Pool(self.cards, Patience(settings.settling, settings.probation), settings.fractions)


NO_GPUS = Gpus({}, {}, (), (), ())


@contextmanager
def opened_gpus(settings: GpuSettings, environ: Mapping[str, str]) -> Iterator[Gpus]:
    """All drivers, until the context ends. `environ` may say that only some of the cards are ours."""
    drivers: dict[str, Driver] = {}
    missing: dict[str, MissingDriverError] = {}
    with ExitStack() as stack:
        for vendor, opened in DRIVERS.items():
            try:
                drivers[vendor] = driver = opened()
            except MissingDriverError as error:
                missing[vendor] = error
            else:
                stack.callback(driver.close)
        yield _found(drivers, missing, settings, environ)


def _found(
    drivers: Mapping[str, Driver],
    missing: Mapping[str, MissingDriverError],
    settings: GpuSettings,
    environ: Mapping[str, str],
) -> Gpus:
    inventories = [driver.inventory() for driver in drivers.values()]
    machine = [card for inventory in inventories for card in inventory.cards]
    return Gpus(
        drivers,
        missing,
        tuple(machine),
        tuple(with_slots(card, settings.slots) for card in visible(machine, environ)),
        tuple(phrase for inventory in inventories for phrase in inventory.left_out),
    )


@asynccontextmanager
async def opened_warden(settings: GpuSettings, environ: Mapping[str, str]) -> AsyncIterator[Warden]:
    """The cards and who looks after them, until the context ends; what is wrong with them is in the log."""
    with ExitStack() as stack:
        gpus = await in_thread(lambda: stack.enter_context(opened_gpus(settings, environ)))
        for sentence in warnings(gpus, environ):
            log.warning("%s", sentence)
        try:
            yield Warden(gpus.pool(settings), gpus.drivers, settings.look, gpus.left_out)
        finally:
            with suppress(TimeoutError):  # a driver that has hung does not let itself be closed
                async with asyncio.timeout(ANSWER):
                    await in_thread(stack.pop_all().close)


def no_warden(settings: GpuSettings) -> Warden:
    """Of a runner that is to use no GPUs: no driver is asked anything."""
    return Warden(NO_GPUS.pool(settings), {}, settings.look)


def warnings(gpus: Gpus, environ: Mapping[str, str]) -> Iterator[str]:
    """What an operator should know: drivers that are here and do not work, cards that do not answer."""
    for error in gpus.missing.values():
        if error.broken:
            yield f"a GPU driver cannot be used: {error}"
    yield from gpus.left_out
    if not order_is_certain(gpus.machine, environ):
        yield (
            "CUDA_VISIBLE_DEVICES has indices, and the cards differ: they are taken in the order of the bus, "
            "which CUDA may not do; name UUIDs, or set CUDA_DEVICE_ORDER=PCI_BUS_ID"
        )
