"""AMD's cards, through what the kernel's driver says in /sys: nothing has to be installed or loaded."""

from collections.abc import Iterator
from pathlib import Path

from studio_runner.machine.gpus.card import AMD, Card, Condition, Inventory, Listener, MissingDriverError, Usage

NAMES = {
    "0x66a1": "AMD Instinct MI50", "0x66a0": "AMD Instinct MI50", "0x738c": "AMD Instinct MI100",
    "0x740f": "AMD Instinct MI210", "0x740c": "AMD Instinct MI250", "0x7408": "AMD Instinct MI250X",
    "0x74a0": "AMD Instinct MI300A", "0x74a1": "AMD Instinct MI300X", "0x74a2": "AMD Instinct MI308X",
    "0x74a5": "AMD Instinct MI325X", "0x75a0": "AMD Instinct MI350X", "0x75a3": "AMD Instinct MI355X",
}  # fmt: skip
"""By PCI device id, of cards that are used for computing and often do not say their name."""


class Amd:
    """The kernel's compute topology (KFD) and its graphics devices, under `system`, as a `Driver`."""

    def __init__(self, system: Path = Path("/sys")) -> None:
        self._nodes = system / "class" / "kfd" / "kfd" / "topology" / "nodes"
        self._processes = system / "class" / "kfd" / "kfd" / "proc"
        self._devices = system / "class" / "drm"
        self._module = system / "module" / "amdgpu" / "version"
        if not self._nodes.is_dir():
            raise MissingDriverError("no AMD driver for computing (amdkfd) is loaded", broken=False)
        self._known: dict[str, tuple[Path, str]] = {}

    @property
    def version(self) -> str:
        return f"AMD driver {_read(self._module) or 'of the kernel'}"

    def inventory(self) -> Inventory:
        """In the order of the topology, which is ROCm's."""
        found: list[Card] = []
        for node in sorted(self._nodes.iterdir(), key=lambda path: int(path.name) if path.name.isdecimal() else 0):
            gpu = _read(node / "gpu_id")
            properties = dict(
                line.split(maxsplit=1) for line in _read(node / "properties").splitlines() if " " in line
            )
            if gpu in ("", "0"):  # a processor
                continue
            device = self._devices / f"renderD{properties.get('drm_render_minor', '')}" / "device"
            unique = properties.get("unique_id", "0")
            if not device.is_dir():
                continue
            index = len(found)
            uuid = f"GPU-{int(unique):016x}" if unique.isdecimal() and int(unique) else str(index)
            self._known[uuid] = (device, gpu)
            found.append(
                Card(
                    uuid=uuid,
                    name=_name(device),
                    memory=_number(device / "mem_info_vram_total"),
                    vendor=AMD,
                    index=index,
                    bus=device.resolve().name,
                )
            )
        return Inventory(found)

    def condition(self, card: Card) -> Condition:
        device, gpu = self._known[card.uuid]
        if not device.is_dir():
            return Condition(0, {}, ("the kernel does not list it any more",))
        return Condition(
            used=_number(device / "mem_info_vram_used"),
            processes=dict(self._computing(gpu)),
            faults=tuple(_faults(device)),
        )

    def usage(self, card: Card) -> Usage:
        device, _ = self._known[card.uuid]
        sensors = next(iter(sorted((device / "hwmon").glob("hwmon*"))), device)
        heat, power = _number(sensors / "temp1_input"), _number(sensors / "power1_average")
        busy = _read(device / "gpu_busy_percent")
        return Usage(
            utilisation=int(busy) if busy.isdecimal() else None,
            temperature=heat // 1000 if heat else None,
            power=power / 1_000_000 if power else None,
        )

    def listen(self) -> Listener | None:
        return None

    def close(self) -> None:
        pass

    def _computing(self, gpu: str) -> Iterator[tuple[int, int]]:
        for memory in self._processes.glob(f"*/vram_{gpu}"):
            process = memory.parent.name
            if process.isdecimal() and (used := _number(memory)):
                yield int(process), used


def _faults(device: Path) -> Iterator[str]:
    """Errors of the memory that could not be corrected: `ue: 2` in the driver's count."""
    for line in _read(device / "ras" / "umc_err_count").splitlines():
        kind, _, count = line.partition(":")
        if kind.strip() == "ue" and count.strip() not in ("", "0"):
            yield f"{count.strip()} uncorrected memory errors (ECC)"


def _name(device: Path) -> str:
    product = _read(device / "product_name")
    return product or NAMES.get(_read(device / "device"), "AMD GPU")


def _number(path: Path) -> int:
    text = _read(path)
    return int(text) if text.isdecimal() else 0


def _read(path: Path) -> str:
    """Empty when it is not there: cards and kernels differ in what they say."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
