"""A stand-in for NVIDIA's management library, for machines without its cards.

`FakeNvml` behaves like the module `pynvml` as far as a runner uses it: functions, constants, error classes. Its
`cards` can be changed at any time, and `report_xid` makes the driver report a fault.

    library = FakeNvml([FakeCard("NVIDIA A100-SXM4-40GB", memory=40 << 30)])
    driver = Nvml(library)
    library.cards[0].uncorrected = 1

`fake_nvml(directory, cards)` makes a directory that puts such a library in the place of the real one in any process
that has it on its PYTHONPATH. It is changed from outside: `FakeDriver.change`, and a file for each process.
"""

import json
import os
import threading
import time
import uuid as uuids
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

GB = 10**9
NO_INSTANCE = 0xFFFFFFFF
DIRECTORY_VARIABLE = "FAKE_NVML"

ERRORS = {
    "UNINITIALIZED": 1, "INVALID_ARGUMENT": 2, "NOT_SUPPORTED": 3, "NO_PERMISSION": 4, "NOT_FOUND": 6,
    "DRIVER_NOT_LOADED": 9, "TIMEOUT": 10, "LIBRARY_NOT_FOUND": 12, "FUNCTION_NOT_FOUND": 13, "GPU_IS_LOST": 15,
    "LIB_RM_VERSION_MISMATCH": 18, "UNKNOWN": 999,
}  # fmt: skip
_WORDS = {
    3: "Not Supported", 6: "Not Found", 9: "Driver Not Loaded", 10: "Timeout", 12: "NVML Shared Library Not Found",
    15: "GPU is lost", 18: "RM has detected an NVML/RM version mismatch.",
}  # fmt: skip


class NVMLError(Exception):
    """As the library raises it."""

    def __init__(self, value: int) -> None:
        super().__init__(_WORDS.get(value, f"NVML Error with code {value}"))
        self.value = value


@dataclass
class FakeInstance:
    """A MIG instance: `slices` of the card's seven (or `FakeCard.slices`), memory in bytes."""

    profile: str
    memory: int
    slices: int
    ids: tuple[int, int] = (1, 0)
    uuid: str = field(default_factory=lambda: f"MIG-{uuids.uuid4()}")
    used: int = 0
    processes: dict[int, int | None] = field(default_factory=dict)


@dataclass
class FakeCard:
    """One card. `used` is memory that no process shows for, `processes` what each has besides (None: the driver
    does not tell); `ecc` None: it has none; `mig` with its `instances`; `lost`: it answers with an error; `hung`:
    it does not answer at all."""

    name: str
    memory: int
    uuid: str = field(default_factory=lambda: f"GPU-{uuids.uuid4()}")
    used: int = 0
    processes: dict[int, int | None] = field(default_factory=dict)
    ecc: bool | None = None
    uncorrected: int = 0
    remap_pending: bool = False
    remap_failed: bool = False
    retire_pending: bool = False
    recovery: int = 0
    lost: bool = False
    hung: bool = False
    mig: bool = False
    instances: list[FakeInstance] = field(default_factory=list)
    slices: int = 7
    utilisation: int = 0
    temperature: int = 40
    milliwatts: int = 60_000


class FakeNvml:
    """The module. `failing`: the error with which it does not even begin."""

    NVMLError = NVMLError
    NVML_FEATURE_ENABLED = NVML_DEVICE_MIG_ENABLE = NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 1
    NVML_VOLATILE_ECC = NVML_TEMPERATURE_GPU = 0
    NVML_FI_DEV_GET_GPU_RECOVERY_ACTION = 230
    nvmlEventTypeXidCriticalError = 8

    def __init__(self, cards: Sequence[FakeCard] = (), failing: int | None = None) -> None:
        self.cards = list(cards)
        self.failing = failing
        self.calls = 0
        """How often a card was asked for anything."""
        self.open = 0
        """How often it was begun and not ended; the event sets that were not freed count as well."""
        self._events: deque[tuple[str, int, int]] = deque()
        self._news = threading.Condition()
        for name, value in ERRORS.items():
            setattr(self, f"NVML_ERROR_{name}", value)

    def report_xid(self, card: FakeCard, xid: int, instance: int = NO_INSTANCE) -> None:
        with self._news:
            self._events.append((card.uuid, xid, instance))
            self._news.notify_all()

    def nvmlInit(self) -> None:
        if self.failing:
            raise NVMLError(self.failing)
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        return "570.00.fake"

    def nvmlDeviceGetCount(self) -> int:
        return len(self._all())

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return self._alive(self._all()[index].uuid).uuid

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        self._part(uuid)
        return uuid

    def nvmlDeviceGetUUID(self, handle: str) -> str:
        return handle

    def nvmlDeviceGetName(self, handle: str) -> str:
        card, instance = self._part(handle)
        return f"{card.name} MIG {instance.profile}" if instance else card.name

    def nvmlDeviceGetPciInfo(self, handle: str) -> SimpleNamespace:
        place = [card.uuid for card in self._all()].index(handle)
        return SimpleNamespace(busId=f"00000000:{place + 1:02X}:00.0")

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> SimpleNamespace:
        card, instance = self._part(handle)
        part = instance or card
        used = part.used + sum(size or 0 for size in part.processes.values())
        return SimpleNamespace(total=part.memory, used=used, free=part.memory - used)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[SimpleNamespace]:
        card, instance = self._part(handle)
        parts: list[FakeCard | FakeInstance] = [instance] if instance else [card, *card.instances]
        return [
            SimpleNamespace(pid=pid, usedGpuMemory=size) for part in parts for pid, size in part.processes.items()
        ]

    def nvmlDeviceGetMPSComputeRunningProcesses(self, handle: str) -> list[SimpleNamespace]:
        self._part(handle)
        return []

    def nvmlDeviceGetEccMode(self, handle: str) -> list[int]:
        return [int(self._with_ecc(handle).ecc or 0)] * 2

    def nvmlDeviceGetTotalEccErrors(self, handle: str, kind: int, counter: int) -> int:
        card = self._with_ecc(handle)
        return card.uncorrected if (kind, counter) == (1, 0) else 0

    def nvmlDeviceGetRemappedRows(self, handle: str) -> tuple[int, int, int, int]:
        card = self._with_ecc(handle)
        return 0, 0, int(card.remap_pending), int(card.remap_failed)

    def nvmlDeviceGetRetiredPagesPendingStatus(self, handle: str) -> int:
        return int(self._with_ecc(handle).retire_pending)

    def nvmlDeviceGetFieldValues(self, handle: str, fields: Sequence[int]) -> list[SimpleNamespace]:
        card = self._alive(handle)
        known = {self.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION: card.recovery}
        return [
            SimpleNamespace(nvmlReturn=0 if one in known else 3, value=SimpleNamespace(uiVal=known.get(one, 0)))
            for one in fields
        ]

    def nvmlDeviceGetMigMode(self, handle: str) -> list[int]:
        return [int(self._alive(handle).mig)] * 2

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: str) -> int:
        return self._alive(handle).slices

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: str, index: int) -> str:
        instances = self._alive(handle).instances
        if index >= len(instances):
            raise NVMLError(ERRORS["NOT_FOUND"])
        return instances[index].uuid

    def nvmlDeviceGetAttributes(self, handle: str) -> SimpleNamespace:
        return SimpleNamespace(computeInstanceSliceCount=self._instance(handle).slices)

    def nvmlDeviceGetGpuInstanceId(self, handle: str) -> int:
        return self._instance(handle).ids[0]

    def nvmlDeviceGetComputeInstanceId(self, handle: str) -> int:
        return self._instance(handle).ids[1]

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> SimpleNamespace:
        card, instance = self._part(handle)
        if instance:
            raise NVMLError(ERRORS["NOT_SUPPORTED"])
        return SimpleNamespace(gpu=card.utilisation, memory=0)

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:  # noqa: ARG002
        return self._alive(handle).temperature

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        return self._alive(handle).milliwatts

    def nvmlEventSetCreate(self) -> list[str]:
        self.open += 1
        return []

    def nvmlEventSetFree(self, events: list[str]) -> None:
        events.clear()
        self.open -= 1

    def nvmlDeviceRegisterEvents(self, handle: str, kinds: int, events: list[str]) -> None:
        if kinds == self.nvmlEventTypeXidCriticalError:
            events.append(self._alive(handle).uuid)

    def nvmlEventSetWait_v2(self, events: list[str], milliseconds: int) -> SimpleNamespace:
        with self._news:
            if not self._news.wait_for(self._arrived, milliseconds / 1000):
                raise NVMLError(ERRORS["TIMEOUT"])
            uuid, xid, instance = self._events.popleft()
        if uuid not in events:
            raise NVMLError(ERRORS["TIMEOUT"])
        return SimpleNamespace(device=uuid, eventType=8, eventData=xid, gpuInstanceId=instance, computeInstanceId=0)

    def _arrived(self) -> bool:
        return bool(self._events)

    def _all(self) -> list[FakeCard]:
        self.calls += 1
        return self.cards

    def _part(self, uuid: str) -> tuple[FakeCard, FakeInstance | None]:
        """The card of this name, or the one with the instance of this name."""
        for card in self._all():
            instance = next((one for one in card.instances if one.uuid == uuid), None)
            if instance or card.uuid == uuid:
                return self._answering(card), instance
        raise NVMLError(ERRORS["NOT_FOUND"])

    def _alive(self, uuid: str) -> FakeCard:
        return self._part(uuid)[0]

    def _answering(self, card: FakeCard) -> FakeCard:
        while card.hung:
            time.sleep(0.01)
        if card.lost:
            raise NVMLError(ERRORS["GPU_IS_LOST"])
        return card

    def _instance(self, uuid: str) -> FakeInstance:
        instance = self._part(uuid)[1]
        if instance is None:
            raise NVMLError(ERRORS["INVALID_ARGUMENT"])
        return instance

    def _with_ecc(self, uuid: str) -> FakeCard:
        card = self._alive(uuid)
        if card.ecc is None:
            raise NVMLError(ERRORS["NOT_SUPPORTED"])
        return card


@dataclass(frozen=True)
class FakeDriver:
    """A driver in a directory, for processes that have it on their PYTHONPATH.

    A process that "computes" has a file of its number under the card's UUID, with the bytes it has as content, and
    is gone when it ends; a file of another name is memory that nobody shows for.
    """

    directory: Path

    @property
    def environment(self) -> dict[str, str]:
        """What puts it in the place of the real library."""
        return {"PYTHONPATH": str(self.directory), DIRECTORY_VARIABLE: str(self.directory)}

    @property
    def begun(self) -> bool:
        """Whether anybody has ever asked it anything."""
        return (self.directory / "begun").exists()

    @contextmanager
    def change(self) -> Iterator[list[FakeCard]]:
        """The cards, to be changed; they are so when the context ends."""
        cards = read_cards(self.directory)
        yield cards
        write_cards(self.directory, cards)

    def report_xid(self, uuid: str, xid: int) -> None:
        with (self.directory / "xid").open("a") as file:
            file.write(f"{uuid} {xid}\n")


def fake_nvml(directory: Path, cards: Sequence[FakeCard]) -> FakeDriver:
    """A driver with these cards in the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    write_cards(directory, cards)
    (directory / "xid").touch()
    (directory / "pynvml.py").write_text(_MODULE)
    (directory / "sitecustomize.py").write_text(
        "import pynvml\n"
    )  # on a machine without a driver nobody else would
    return FakeDriver(directory)


_MODULE = """\
from studio_runner.testing.nvml import module
globals().update(module())
"""


def module() -> Mapping[str, Any]:
    """What `pynvml` is made of, over the directory that the environment names."""
    library = _FromDirectory(Path(os.environ[DIRECTORY_VARIABLE]))
    return {name: getattr(library, name) for name in dir(library) if name[:4].lower() == "nvml"}


class _FromDirectory(FakeNvml):
    """Reads everything anew whenever it is asked."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._directory = directory
        self._heard = 0

    def nvmlInit(self) -> None:
        super().nvmlInit()
        (self._directory / "begun").touch()

    def _all(self) -> list[FakeCard]:
        cards = read_cards(self._directory)
        for card in cards:
            _add_processes(self._directory / card.uuid, card)
            for instance in card.instances:
                _add_processes(self._directory / instance.uuid, instance)
        return cards

    def nvmlEventSetWait_v2(self, events: list[str], milliseconds: int) -> SimpleNamespace:
        deadline = time.monotonic() + milliseconds / 1000
        while not self._arrived():
            if time.monotonic() > deadline:
                raise NVMLError(ERRORS["TIMEOUT"])
            time.sleep(0.01)
        return super().nvmlEventSetWait_v2(events, milliseconds)

    def _arrived(self) -> bool:
        lines = (self._directory / "xid").read_text().splitlines()
        for line in lines[self._heard :]:
            uuid, xid = line.split()
            self._events.append((uuid, int(xid), NO_INSTANCE))
        self._heard = len(lines)
        return bool(self._events)


def _add_processes(directory: Path, part: FakeCard | FakeInstance) -> None:
    for path in directory.iterdir():
        size = int(path.read_text() or 0)
        if not path.name.isdecimal():
            part.used += size
        elif Path("/proc", path.name).exists():
            part.processes[int(path.name)] = size


def read_cards(directory: Path) -> list[FakeCard]:
    return [_card(entry) for entry in json.loads((directory / "cards.json").read_text())]


def write_cards(directory: Path, cards: Sequence[FakeCard]) -> None:
    """Whole, as a reader in another process must see it."""
    for card in cards:
        for uuid in (card.uuid, *(instance.uuid for instance in card.instances)):
            (directory / uuid).mkdir(exist_ok=True)
    new = directory / "cards.json.new"
    new.write_text(json.dumps([asdict(card) for card in cards]))
    new.rename(directory / "cards.json")


def _card(entry: Mapping[str, Any]) -> FakeCard:
    instances = [
        FakeInstance(**{**one, "ids": tuple(one["ids"]), "processes": _numbers(one)}) for one in entry["instances"]
    ]
    return FakeCard(**{**entry, "instances": instances, "processes": _numbers(entry)})


def _numbers(entry: Mapping[str, Any]) -> dict[int, int | None]:
    return {int(pid): size for pid, size in entry["processes"].items()}
