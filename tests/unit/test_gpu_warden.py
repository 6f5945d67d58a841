"""Looking after the cards of a fake driver, with the threads and the ledger of the real thing."""

import asyncio
import threading
from contextlib import asynccontextmanager

import pytest

from studio_runner.config.settings import GpuSettings
from studio_runner.machine.gpus import opening, warden
from studio_runner.machine.gpus.nvml import Nvml
from studio_runner.machine.gpus.opening import no_warden, opened_warden
from studio_runner.machine.gpus.pool import CardState
from studio_runner.machine.inventory import Capacity
from studio_runner.machine.ledger import Ledger
from studio_runner.machine.need import GpuNeed, Need
from studio_runner.testing.nvml import ERRORS, GB, FakeCard, FakeNvml

TOTAL = Capacity(cores=8, memory=8, disk=8)
ONE = Need(gpus=GpuNeed(slots=1))
SETTINGS = GpuSettings(settling=0.2, look=0.05, probation=0.3)
PATIENCE = 30


@asynccontextmanager
async def machine(monkeypatch, library, settings=SETTINGS, environ=None):
    monkeypatch.setattr(opening, "DRIVERS", {"nvidia": lambda: Nvml(library)})
    async with opened_warden(settings, environ or {}) as gpus:
        ledger = Ledger(TOTAL, gpus.pool)
        async with gpus.watching(ledger.changed):
            yield gpus, ledger


@pytest.fixture
def library():
    return FakeNvml([FakeCard("Tesla T4", 16 * GB, used=GB // 4)])


async def until(true):
    async with asyncio.timeout(PATIENCE):
        while not true():
            await asyncio.sleep(0.005)


def state(gpus):
    (place,) = gpus.pool.places.values()
    return place.state


def trouble(gpus):
    (place,) = gpus.pool.places.values()
    return place.health.trouble


async def test_a_clean_card_is_free_again_at_once_and_whoever_waits_is_told(monkeypatch, library):
    slow = GpuSettings(look=3600.0)
    async with machine(monkeypatch, library, slow) as (gpus, ledger):
        reservation = ledger.reserve(ONE)
        library.cards[0].processes[17] = GB
        assert ledger.reserve(ONE) is None
        reservation.release()
        assert ledger.reserve(ONE) is None
        assert state(gpus) is CardState.SETTLING
        seen = ledger.releases
        library.cards[0].processes.clear()
        await asyncio.wait_for(ledger.released(seen), PATIENCE)
        assert ledger.reserve(ONE)


async def test_what_stays_on_a_card_sets_it_aside_until_it_is_gone(monkeypatch, library, caplog):
    async with machine(monkeypatch, library) as (gpus, ledger):
        reservation = ledger.reserve(ONE)
        library.cards[0].used += GB
        reservation.release()
        await until(lambda: trouble(gpus))
        assert not ledger.fits(ONE)
        assert not ledger.shortfalls(ONE)
        library.cards[0].used -= GB
        await until(lambda: ledger.fits(ONE))
    assert "GPU 0 (Tesla T4" in caplog.text
    assert "is set aside" in caplog.text
    assert "is well again" in caplog.text


async def test_a_card_in_use_by_others_is_set_aside_from_the_start(monkeypatch, library):
    library.cards[0].processes[99] = GB
    async with machine(monkeypatch, library) as (gpus, ledger):
        assert not ledger.fits(ONE)
        assert trouble(gpus) == "process 99 computes on it"
        library.cards[0].processes.clear()
        await until(lambda: ledger.fits(ONE))
        library.cards[0].processes[100] = GB
        await until(lambda: not ledger.fits(ONE))


async def test_a_fault_is_told_to_the_experiment_that_has_the_card(monkeypatch, library):
    library.cards.append(FakeCard("Tesla P40", 24 * GB))
    async with machine(monkeypatch, library) as (gpus, ledger):
        reservation, told, neighbour = ledger.reserve(ONE), [], []
        telling = asyncio.create_task(gpus.mishaps(reservation.gpus, told.append))
        other = asyncio.create_task(gpus.mishaps(ledger.reserve(ONE).gpus, neighbour.append))
        await asyncio.sleep(0)
        library.report_xid(library.cards[0], 31)  # a program's own mistake
        library.report_xid(library.cards[0], 79)
        await until(lambda: told)
        assert "the driver reported Xid 79" in told[0]
        assert library.cards[0].uuid in told[0]
        assert not neighbour
        reservation.release()
        await until(lambda: ledger.fits(ONE))  # after its probation
        for task in (telling, other):
            task.cancel()


async def test_errors_of_its_memory_set_a_card_aside(monkeypatch, library):
    library.cards[0].ecc = True
    async with machine(monkeypatch, library) as (gpus, ledger):
        library.cards[0].uncorrected = 3
        await until(lambda: trouble(gpus))
        assert "3 uncorrected memory errors" in trouble(gpus)
        library.cards[0].uncorrected = 0
        await until(lambda: ledger.fits(ONE))


async def test_a_driver_that_hangs_keeps_no_other_card_waiting_and_does_not_keep_the_runner(monkeypatch, library):
    monkeypatch.setattr(warden, "ANSWER", 0.1)
    library.cards.append(FakeCard("Tesla P40", 24 * GB))
    async with asyncio.timeout(PATIENCE):
        async with machine(monkeypatch, library) as (gpus, ledger):
            library.cards[0].hung = True
            first, second = gpus.pool.places.values()
            await until(lambda: first.health.trouble)
            assert first.health.trouble == "the driver does not answer"
            reservation = ledger.reserve(ONE)
            assert reservation.gpus.cards == (second.card.uuid,)
            assert await gpus.usage(reservation.gpus, [])
            reservation.release()
            await until(lambda: ledger.fits(ONE))
        library.cards[0].hung = False


async def test_a_hung_driver_does_not_keep_the_runner_from_ending(monkeypatch, library):
    monkeypatch.setattr(warden, "ANSWER", 0.1)
    async with asyncio.timeout(PATIENCE), machine(monkeypatch, library) as (gpus, _):
        library.cards[0].hung = True
        await until(lambda: trouble(gpus))
    library.cards[0].hung = False


def listeners():
    return [thread for thread in threading.enumerate() if thread.name == warden.LISTENER]


async def test_nothing_stays_behind(monkeypatch, library):
    async with machine(monkeypatch, library):
        assert listeners()
    assert not listeners()
    assert library.open == 0


async def test_what_goes_wrong_in_the_runner_comes_out_as_it_is(monkeypatch, library):
    with pytest.raises(ZeroDivisionError):
        async with machine(monkeypatch, library):
            raise ZeroDivisionError


async def test_a_card_whose_watch_breaks_is_given_to_nobody(monkeypatch, library, caplog):
    async with machine(monkeypatch, library) as (gpus, ledger):
        monkeypatch.setattr(library, "nvmlDeviceGetMemoryInfo", lambda handle: 1 / 0)
        await until(lambda: trouble(gpus))
        assert not ledger.fits(ONE)
    assert "its watch broke" in caplog.text
    assert "ZeroDivisionError" in caplog.text


async def test_usage_counts_what_the_experiments_processes_have(monkeypatch, library):
    async with machine(monkeypatch, library) as (gpus, ledger):
        reservation = ledger.reserve(ONE)
        library.cards[0].processes = {17: 2 * GB, 18: GB, 19: 4 * GB}
        library.cards[0].utilisation = 88
        (found,) = await gpus.usage(reservation.gpus, [17, 18])
        assert (found["memory"], found["utilisation"], found["memory_total"]) == (3 * GB, 88, 16 * GB)
        (found,) = await gpus.usage(reservation.gpus, [1])  # numbers of another namespace
        assert found["memory"] == 7 * GB + GB // 4


async def test_only_the_cards_that_the_runner_was_given(monkeypatch, library):
    library.cards.append(FakeCard("Tesla P40", 24 * GB))
    mine = {"CUDA_VISIBLE_DEVICES": library.cards[1].uuid[:12]}
    async with machine(monkeypatch, library, environ=mine) as (gpus, _):
        assert list(gpus.pool.places) == [library.cards[1].uuid]


async def test_a_runner_that_is_to_use_none_asks_no_driver():
    gpus = no_warden(SETTINGS)
    ledger = Ledger(TOTAL, gpus.pool)
    async with gpus.watching(ledger.changed):
        assert "none here" in ledger.shortfalls(ONE)[0]
        assert await gpus.usage(ledger.reserve(Need()).gpus, []) == []


async def test_a_driver_that_does_not_work_is_said(monkeypatch, caplog):
    library = FakeNvml(failing=ERRORS["LIB_RM_VERSION_MISMATCH"])
    async with machine(monkeypatch, library) as (_, ledger):
        assert ledger.shortfalls(ONE)
    assert "a GPU driver cannot be used: NVML says: RM has detected an NVML/RM version mismatch" in caplog.text
