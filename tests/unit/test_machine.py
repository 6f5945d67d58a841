import asyncio

from hypothesis import given
from hypothesis import strategies as st

from studio_runner.config.settings import MachineSettings
from studio_runner.machine.inventory import Capacity, inventory
from studio_runner.machine.ledger import Ledger
from studio_runner.machine.need import Need

TOTAL = Capacity(cores=4, memory=8000, disk=100)


def test_settings_cut_what_the_machine_has(tmp_path):
    whole = inventory(MachineSettings(0, 0, 0, cpu_only=False), tmp_path / "not" / "yet")
    cut = inventory(MachineSettings(1, 1000, 2000, cpu_only=False), tmp_path)
    assert whole.cores >= 1
    assert whole.memory > 1000
    assert whole.disk > 2000
    assert cut == Capacity(cores=1, memory=1000, disk=2000)


def test_a_setting_beyond_the_machine_does_not_make_it_larger(tmp_path):
    whole = inventory(MachineSettings(0, 0, 0, cpu_only=False), tmp_path)
    assert inventory(MachineSettings(100_000, 0, 0, cpu_only=False), tmp_path).cores == whole.cores


def test_cores_come_back_before_the_disk():
    ledger = Ledger(TOTAL)
    reservation = ledger.reserve(Need(Capacity(cores=3, memory=5000, disk=60)))
    assert reservation
    reservation.release_compute()
    assert ledger.free == Capacity(cores=4, memory=8000, disk=40)
    reservation.release()
    reservation.release()
    assert ledger.free == TOTAL


def test_what_can_never_fit_is_said_in_figures():
    ledger = Ledger(TOTAL)
    assert ledger.shortfalls(Need(Capacity(cores=4, memory=8000, disk=100))) == []
    (phrase,) = ledger.shortfalls(Need(Capacity(cores=5, memory=0, disk=0)))
    assert "5 cores wanted, 4 here" in phrase
    assert len(ledger.shortfalls(Need(Capacity(cores=5, memory=9000, disk=101)))) == 3


async def test_a_release_wakes_whoever_waits():
    ledger = Ledger(TOTAL)
    reservation = ledger.reserve(Need(Capacity(cores=4, memory=0, disk=0)))
    assert reservation
    waiting = asyncio.create_task(ledger.released(ledger.releases))
    await asyncio.sleep(0)
    assert not waiting.done()
    reservation.release()
    await asyncio.wait_for(waiting, 5)
    await asyncio.wait_for(ledger.released(ledger.releases - 1), 5)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9000), st.integers(0, 120), st.booleans()), max_size=60)
)
def test_never_more_than_there_is_and_nothing_lost(steps):
    ledger = Ledger(TOTAL)
    held = []
    for cores, memory, disk, give_back in steps:
        if give_back and held:
            held.pop(0).release()
        elif reservation := ledger.reserve(Need(Capacity(cores, memory, disk))):
            held.append(reservation)
        assert min(ledger.free.cores, ledger.free.memory, ledger.free.disk) >= 0
    for reservation in held:
        reservation.release()
    assert ledger.free == TOTAL
