"""NVIDIA's cards, through the management library that comes with the driver (NVML)."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from studio_runner.machine.gpus.card import NVIDIA, Alarm, Card, Condition, Inventory, MissingDriverError, Usage

SIGNS = (Path("/proc/driver/nvidia"), Path("/dev/nvidiactl"), Path("/dev/dxg"))
"""Without any of these there is no driver: the library, which takes a tenth of a second to load, is not loaded."""

HARMLESS = frozenset({13, 31, 43, 45, 63, 68, 69, 92, 109})
"""Xid events that are the program's fault, or only for the record: NVIDIA's list of Xid errors says which. A row
that was remapped (63) shows in the card's condition when it matters."""

_NO_INSTANCE = 0xFFFFFFFF
_MINIMUM_SHARE = 1 / 7
_T = TypeVar("_T")


class Nvml:
    """The library as a `Driver`. `library` is the module `pynvml`, or something that behaves like it."""

    def __init__(self, library: Any) -> None:
        self._library = library
        try:
            library.nvmlInit()
        except library.NVMLError as error:
            absent = error.value in (library.NVML_ERROR_LIBRARY_NOT_FOUND, library.NVML_ERROR_DRIVER_NOT_LOADED)
            raise MissingDriverError(f"NVML says: {error}", broken=not absent) from error
        self._handles: dict[str, Any] = {}

    @property
    def version(self) -> str:
        return f"NVIDIA driver {self._told(self._library.nvmlSystemGetDriverVersion) or 'of unknown version'}"

    def inventory(self) -> Inventory:
        """A card that does not even say its name is left out, and so is one that is to be divided and is not."""
        cards: list[Card] = []
        left_out: list[str] = []
        for index in range(self._library.nvmlDeviceGetCount()):
            try:
                found = list(self._at(index))
            except self._library.NVMLError as error:
                left_out.append(f"GPU {index}: the driver says: {error}")
                continue
            cards += found
            if not found:
                left_out.append(f"GPU {index}: MIG is on, and it has no instances")
        return Inventory(cards, left_out)

    def condition(self, card: Card) -> Condition:
        """A card that has been lost has no memory and no processes, but a fault."""
        library = self._library
        try:
            whole, part = self._handle(card.physical), self._handle(card.uuid)
            used = library.nvmlDeviceGetMemoryInfo(part).used
            processes = self._processes(part)
        except library.NVMLError as error:
            self._handles.clear()  # after a reset they may be others
            return Condition(0, {}, (f"the driver says: {error}",))
        return Condition(used, processes, tuple(self._faults(whole)))

    def usage(self, card: Card) -> Usage:
        """An instance has no utilisation of its own; heat and power are its GPU's."""
        library = self._library
        try:
            whole = self._handle(card.physical)
        except library.NVMLError:
            return Usage()
        rates = None if card.parent else self._told(library.nvmlDeviceGetUtilizationRates, whole)
        power = self._told(library.nvmlDeviceGetPowerUsage, whole)
        return Usage(
            utilisation=rates.gpu if rates else None,
            temperature=self._told(library.nvmlDeviceGetTemperature, whole, library.NVML_TEMPERATURE_GPU),
            power=None if power is None else power / 1000,
        )

    def listen(self) -> "XidListener | None":
        library = self._library
        try:
            events = library.nvmlEventSetCreate()
        except library.NVMLError:
            return None
        listener = XidListener(library, events)
        for index in range(library.nvmlDeviceGetCount()):
            with suppress(library.NVMLError):
                handle = library.nvmlDeviceGetHandleByIndex(index)
                library.nvmlDeviceRegisterEvents(handle, library.nvmlEventTypeXidCriticalError, events)
                listener.reporting += 1
        if not listener.reporting:
            listener.close()
            return None
        return listener

    def close(self) -> None:
        with suppress(self._library.NVMLError):
            self._library.nvmlShutdown()

    def _at(self, index: int) -> Iterator[Card]:
        library = self._library
        handle = library.nvmlDeviceGetHandleByIndex(index)
        card = Card(
            uuid=library.nvmlDeviceGetUUID(handle),
            name=library.nvmlDeviceGetName(handle),
            memory=library.nvmlDeviceGetMemoryInfo(handle).total,
            vendor=NVIDIA,
            index=index,
            bus=str(self._told(lambda: library.nvmlDeviceGetPciInfo(handle).busId) or "").lower(),
            ecc=self._ecc(handle),
        )
        mode = self._told(library.nvmlDeviceGetMigMode, handle)
        if mode and mode[0] == library.NVML_DEVICE_MIG_ENABLE:
            yield from self._instances(handle, card)
        else:
            yield card

    def _instances(self, handle: Any, whole: Card) -> Iterator[Card]:
        library = self._library
        most = library.nvmlDeviceGetMaxMigDeviceCount(handle)
        for number in range(most):
            with suppress(library.NVMLError):  # there may be fewer than it can have
                instance = library.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
                slices = self._told(
                    lambda one=instance: library.nvmlDeviceGetAttributes(one).computeInstanceSliceCount
                )
                name = library.nvmlDeviceGetName(instance)
                yield Card(
                    uuid=library.nvmlDeviceGetUUID(instance),
                    name=whole.name,
                    memory=library.nvmlDeviceGetMemoryInfo(instance).total,
                    index=whole.index,
                    bus=whole.bus,
                    ecc=whole.ecc,
                    parent=whole.uuid,
                    profile=name.rpartition("MIG ")[2] if "MIG " in name else "",
                    share=slices / most if slices else _MINIMUM_SHARE,
                    instance=(
                        library.nvmlDeviceGetGpuInstanceId(instance),
                        library.nvmlDeviceGetComputeInstanceId(instance),
                    ),
                )

    def _ecc(self, handle: Any) -> str:
        mode = self._told(self._library.nvmlDeviceGetEccMode, handle)
        return "" if mode is None else "on" if mode[0] == self._library.NVML_FEATURE_ENABLED else "off"

    def _processes(self, handle: Any) -> dict[int, int | None]:
        """A process under MPS shows in the one list or in the other, as drivers go."""
        library = self._library
        found = list(library.nvmlDeviceGetComputeRunningProcesses(handle))
        found += self._told(library.nvmlDeviceGetMPSComputeRunningProcesses, handle) or []
        return {process.pid: process.usedGpuMemory for process in found}

    def _faults(self, handle: Any) -> Iterator[str]:
        library = self._library
        errors = self._told(
            library.nvmlDeviceGetTotalEccErrors,
            handle,
            library.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
            library.NVML_VOLATILE_ECC,
        )
        if errors:
            yield f"{errors} uncorrected memory error{'' if errors == 1 else 's'} (ECC) since it was reset"
        if rows := self._told(library.nvmlDeviceGetRemappedRows, handle):
            _, _, pending, failed = rows
            if failed:
                yield "a row of its memory could not be remapped"
            elif pending:
                yield "a row of its memory waits for a reset to be remapped"
        if self._told(library.nvmlDeviceGetRetiredPagesPendingStatus, handle) == library.NVML_FEATURE_ENABLED:
            yield "a page of its memory waits for a reset to be retired"
        if action := self._recovery(handle):
            yield f"the driver wants it to be {action}"

    def _recovery(self, handle: Any) -> str | None:
        """What has to be done to the card, in drivers that tell (since 570)."""
        library = self._library
        field = getattr(library, "NVML_FI_DEV_GET_GPU_RECOVERY_ACTION", None)
        values = None if field is None else self._told(library.nvmlDeviceGetFieldValues, handle, [field])
        if not values or values[0].nvmlReturn != 0:
            return None
        return {1: "reset", 2: "restarted with the machine", 3: "drained", 4: "drained and reset"}.get(
            values[0].value.uiVal
        )

    def _handle(self, uuid: str) -> Any:
        """Kept: looking a card up by name takes longer than asking it. Several threads ask."""
        handle = self._handles.get(uuid)
        if handle is None:
            handle = self._handles[uuid] = self._library.nvmlDeviceGetHandleByUUID(uuid)
        return handle

    def _told(self, ask: Callable[..., _T], *arguments: object) -> _T | None:
        """What the library says, None where it does not: cards and drivers differ in what they can be asked."""
        try:
            return ask(*arguments)
        except self._library.NVMLError:
            return None


class XidListener:
    """Hears of Xid events, which the kernel's driver reports of cards and of programs that use them wrongly."""

    def __init__(self, library: Any, events: Any) -> None:
        self._library, self._events = library, events
        self.reporting = 0
        """Cards that report."""

    def hear(self, patience: float) -> Alarm | None:
        library = self._library
        try:
            event = library.nvmlEventSetWait_v2(self._events, int(patience * 1000))
            uuid = library.nvmlDeviceGetUUID(event.device)
        except library.NVMLError as error:
            if error.value != library.NVML_ERROR_TIMEOUT:  # a lost card, above all: the next look at it finds that
                time.sleep(patience)
            return None
        if event.eventData in HARMLESS:
            return None
        instance = None if event.gpuInstanceId == _NO_INSTANCE else event.gpuInstanceId
        return Alarm(uuid, f"the driver reported Xid {event.eventData}", instance)

    def close(self) -> None:
        with suppress(self._library.NVMLError):
            self._library.nvmlEventSetFree(self._events)


def opened_nvml() -> Nvml:
    """NVML of this machine; MissingDriverError says why there is none."""
    if "pynvml" not in sys.modules and not any(sign.exists() for sign in SIGNS):
        raise MissingDriverError("no NVIDIA driver is loaded", broken=False)
    import pynvml  # noqa: PLC0415 - takes a tenth of a second

    return Nvml(pynvml)
