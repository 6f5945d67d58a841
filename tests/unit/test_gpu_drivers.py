"""NVML and the kernel's AMD driver, each at its boundary."""

import threading

import pytest

from studio_runner.machine.gpus import nvml
from studio_runner.machine.gpus.amd import Amd
from studio_runner.machine.gpus.card import MissingDriverError
from studio_runner.machine.gpus.nvml import Nvml, opened_nvml
from studio_runner.testing.nvml import ERRORS, GB, FakeCard, FakeInstance, FakeNvml

A100 = "NVIDIA A100-SXM4-40GB"


def instance(profile="3g.20gb", slices=3, **more):
    return FakeInstance(profile, memory=20 * GB, slices=slices, **more)


def test_the_inventory_tells_of_every_card_in_the_order_of_the_bus():
    library = FakeNvml([FakeCard(A100, 40 * GB, ecc=True), FakeCard("NVIDIA GeForce RTX 4090", 24 * GB)])
    first, second = Nvml(library).inventory().cards
    assert (first.uuid, first.name, first.memory, first.ecc) == (library.cards[0].uuid, A100, 40 * GB, "on")
    assert (first.index, first.bus, first.vendor) == (0, "00000000:01:00.0", "nvidia")
    assert (second.index, second.ecc, second.parent) == (1, "", "")


def test_a_divided_card_is_its_instances():
    parts = [instance(ids=(1, 0)), instance("1g.5gb", 1, ids=(9, 0))]
    library = FakeNvml([FakeCard(A100, 40 * GB, mig=True, instances=parts), FakeCard("NVIDIA T4", 16 * GB)])
    large, small, whole = Nvml(library).inventory().cards
    assert [card.uuid for card in (large, small)] == [part.uuid for part in parts]
    assert large.parent == small.parent == library.cards[0].uuid
    assert (large.profile, large.memory, large.instance) == ("3g.20gb", 20 * GB, (1, 0))
    assert (large.share, small.share) == (3 / 7, 1 / 7)
    assert whole.index == 1


def test_a_divided_card_of_another_number_of_slices():
    card = FakeCard("NVIDIA A30", 24 * GB, mig=True, slices=4, instances=[instance("2g.12gb", 2)])
    (part,) = Nvml(FakeNvml([card])).inventory().cards
    assert part.share == 0.5


def test_what_cannot_be_used_is_left_out_and_named():
    library = FakeNvml([FakeCard(A100, 40 * GB, lost=True), FakeCard(A100, 40 * GB, mig=True), FakeCard("T4", GB)])
    found = Nvml(library).inventory()
    assert [card.index for card in found.cards] == [2]
    lost, empty = found.left_out
    assert "GPU 0" in lost
    assert "GPU is lost" in lost
    assert "GPU 1: MIG is on, and it has no instances" in empty


def test_a_look_tells_memory_and_processes():
    library = FakeNvml([FakeCard(A100, 40 * GB, used=GB, processes={17: 2 * GB, 18: None})])
    driver = Nvml(library)
    condition = driver.condition(driver.inventory().cards[0])
    assert condition.used == 3 * GB
    assert condition.processes == {17: 2 * GB, 18: None}
    assert condition.faults == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"uncorrected": 2}, "2 uncorrected memory errors"),
        ({"uncorrected": 1}, "1 uncorrected memory error "),
        ({"remap_failed": True}, "could not be remapped"),
        ({"remap_pending": True}, "waits for a reset to be remapped"),
        ({"retire_pending": True}, "waits for a reset to be retired"),
        ({"recovery": 1}, "wants it to be reset"),
        ({"recovery": 2}, "restarted with the machine"),
        ({"lost": True}, "GPU is lost"),
    ],
)
def test_faults_show_in_a_look(changes, words):
    library = FakeNvml([FakeCard(A100, 40 * GB, ecc=True)])
    driver = Nvml(library)
    (card,) = driver.inventory().cards
    assert driver.condition(card).faults == ()
    for name, value in changes.items():
        setattr(library.cards[0], name, value)
    (fault,) = driver.condition(card).faults
    assert words in fault


def test_the_memory_errors_of_a_card_are_those_of_its_instances():
    card = FakeCard(A100, 40 * GB, mig=True, ecc=True, instances=[instance(processes={5: GB})])
    driver = Nvml(FakeNvml([card]))
    (part,) = driver.inventory().cards
    assert driver.condition(part).processes == {5: GB}
    card.uncorrected = 1
    assert driver.condition(part).faults


def test_usage_leaves_out_what_the_driver_does_not_tell():
    whole = FakeCard(A100, 40 * GB, utilisation=93, temperature=71, milliwatts=312_500)
    divided = FakeCard(A100, 40 * GB, mig=True, instances=[instance()])
    library = FakeNvml([whole, divided])
    driver = Nvml(library)
    card, part = driver.inventory().cards
    assert (driver.usage(card).utilisation, driver.usage(card).temperature, driver.usage(card).power) == (
        93,
        71,
        312.5,
    )
    assert driver.usage(part).utilisation is None
    whole.lost = True
    assert driver.usage(card).power is None


def test_faults_are_heard_and_the_faults_of_programs_are_not():
    library = FakeNvml([FakeCard(A100, 40 * GB)])
    driver = Nvml(library)
    (card,) = driver.inventory().cards
    listener = driver.listen()
    for xid in sorted(nvml.HARMLESS):
        library.report_xid(library.cards[0], xid)
        assert listener.hear(0.01) is None
    library.report_xid(library.cards[0], 79)
    alarm = listener.hear(0.01)
    assert alarm.concerns(card)
    assert "Xid 79" in alarm.fault
    listener.close()
    driver.close()
    assert library.open == 0


def test_a_fault_of_one_instance_is_not_that_of_its_neighbour():
    parts = [instance(ids=(1, 0)), instance(ids=(2, 0))]
    library = FakeNvml([FakeCard(A100, 40 * GB, mig=True, instances=parts)])
    driver = Nvml(library)
    one, other = driver.inventory().cards
    listener = driver.listen()
    library.report_xid(library.cards[0], 95, instance=2)
    alarm = listener.hear(0.01)
    assert (alarm.concerns(one), alarm.concerns(other)) == (False, True)


def test_a_listener_wakes_when_something_is_reported():
    library = FakeNvml([FakeCard(A100, 40 * GB)])
    driver = Nvml(library)
    listener, heard = driver.listen(), []
    waiting = threading.Thread(target=lambda: heard.append(listener.hear(60)))
    waiting.start()
    library.report_xid(library.cards[0], 48)
    waiting.join(30)
    assert heard[0].physical == library.cards[0].uuid


@pytest.mark.parametrize(
    ("error", "broken"),
    [("LIBRARY_NOT_FOUND", False), ("DRIVER_NOT_LOADED", False), ("LIB_RM_VERSION_MISMATCH", True)],
)
def test_a_missing_driver_is_told_from_one_that_does_not_work(error, broken):
    with pytest.raises(MissingDriverError) as caught:
        Nvml(FakeNvml(failing=ERRORS[error]))
    assert caught.value.broken == broken


def test_the_library_is_not_loaded_where_there_is_no_sign_of_a_driver(monkeypatch, tmp_path):
    monkeypatch.setattr(nvml, "SIGNS", (tmp_path / "nothing",))
    monkeypatch.delitem(nvml.sys.modules, "pynvml", raising=False)
    with pytest.raises(MissingDriverError, match="no NVIDIA driver is loaded"):
        opened_nvml()
    assert "pynvml" not in nvml.sys.modules


@pytest.mark.skipif(any(sign.exists() for sign in nvml.SIGNS), reason="there is an NVIDIA driver here")
def test_the_real_library_says_why_it_cannot_be_used(monkeypatch, tmp_path):
    """The module that comes with the package, on a machine without the driver's library."""
    monkeypatch.setattr(nvml, "SIGNS", (tmp_path,))
    with pytest.raises(MissingDriverError, match="NVML says"):
        opened_nvml()


def amd_system(root, cards):
    """A /sys as amdgpu and amdkfd make it: a processor and these cards."""
    nodes = root / "class/kfd/kfd/topology/nodes"
    (nodes / "0").mkdir(parents=True)
    (nodes / "0/gpu_id").write_text("0\n")
    for number, card in enumerate(cards, 1):
        node, device = nodes / str(number), root / f"class/drm/renderD{127 + number}/device"
        node.mkdir()
        (device / "ras").mkdir(parents=True)
        (node / "gpu_id").write_text(f"{1000 + number}\n")
        unique = card.get("unique", 0xABC0 + number)
        (node / "properties").write_text(f"simd_count 440\ndrm_render_minor {127 + number}\nunique_id {unique}\n")
        (device / "device").write_text(card.get("device", "0x74a1") + "\n")
        (device / "product_name").write_text(card.get("name", "") + "\n")
        (device / "mem_info_vram_total").write_text(f"{192 * GB}\n")
        (device / "mem_info_vram_used").write_text(f"{card.get('used', 0)}\n")
        (device / "gpu_busy_percent").write_text("37\n")
        (device / "ras/umc_err_count").write_text(f"ue: {card.get('ue', 0)}\nce: 5\n")
    return root


def test_amd_cards_are_found_in_the_kernels_topology(tmp_path):
    system = amd_system(tmp_path, [{}, {"name": "AMD Radeon PRO W7900", "unique": 0}])
    first, second = Amd(system).inventory().cards
    assert (first.uuid, first.name, first.memory) == ("GPU-000000000000abc1", "AMD Instinct MI300X", 192 * GB)
    assert (second.uuid, second.name, second.index) == ("1", "AMD Radeon PRO W7900", 1)


def test_a_look_at_an_amd_card(tmp_path):
    driver = Amd(amd_system(tmp_path, [{"used": 3 * GB, "ue": 2}]))
    (card,) = driver.inventory().cards
    process = tmp_path / "class/kfd/kfd/proc/4711"
    process.mkdir(parents=True)
    (process / "vram_1001").write_text(f"{2 * GB}\n")
    (process / "vram_1002").write_text(f"{GB}\n")
    condition = driver.condition(card)
    assert condition.used == 3 * GB
    assert condition.processes == {4711: 2 * GB}
    assert condition.faults == ("2 uncorrected memory errors (ECC)",)
    assert driver.usage(card).utilisation == 37


def test_no_amd_driver(tmp_path):
    with pytest.raises(MissingDriverError, match="amdkfd"):
        Amd(tmp_path)
