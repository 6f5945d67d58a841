"""The runner over NVIDIA's own driver and a real card, where there is one."""

import json
import re

import httpx
import pytest

from studio_runner.machine.gpus.nvml import SIGNS
from studio_runner.testing.nvml import GB

pytestmark = pytest.mark.skipif(
    not any(sign.exists() for sign in SIGNS), reason="NO GPU: what a real card does is not tried on this machine"
)

ALLOCATE = """
import ctypes, os, sys, time
size, gate = int(sys.argv[1]), sys.argv[2]
cuda = ctypes.CDLL("libcuda.so.1")
count, device, context, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
    print("devices 0")
    raise SystemExit
print("devices", count.value, flush=True)
assert cuda.cuDeviceGet(ctypes.byref(device), 0) == 0
assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) == 0
assert cuda.cuCtxSetCurrent(context) == 0
assert cuda.cuMemAlloc_v2(ctypes.byref(memory), ctypes.c_size_t(size)) == 0
print("allocated", flush=True)
while os.path.exists(gate):
    time.sleep(0.05)
"""


def request(place, gate, config=None, **resources):
    needed = {"cpus": 1, "ram": "4gb", "hdd": "100mb", **resources}
    files, arguments = {"main.py": ALLOCATE}, [str(2 * GB), str(gate)]
    return place.submit(files, args=arguments, resources_needed=needed, config=config)


def test_an_experiment_has_a_real_card_to_itself_and_leaves_it_clean(place, until):
    gate = place.home / "gate"
    gate.touch()
    with place.daemon("--http-address", "127.0.0.1:0"):
        address = until(lambda: re.findall(r" at (http://\S+)/", place.log()))[0]

        def cards():
            with httpx.Client(base_url=address, trust_env=False, timeout=60) as http:
                return http.get("/api/v1/runner").json()["gpus"]

        assert {card["state"] for card in cards()} == {"free"}, cards()
        key = request(place, gate, {"saveMetricsFrequency": "200ms"}, gpus=1, gpuMem="4gb")
        until(lambda: any(card["experiments"] == [key] for card in cards()))
        (mine,) = [card for card in cards() if card["experiments"]]
        running = place.record(key)["studio_runner"]
        metrics = place.attempts / running["directory"] / "_metrics"
        until(lambda: any(_memory(line) > 2 * GB for line in _lines(metrics)))
        assert mine["state"] == "in_use"
        gate.unlink()
        assert place.wait(key).ok
        assert "devices 1\nallocated\n" in place.output(key)
        until(lambda: {card["state"] for card in cards()} == {"free"})
        without = request(place, gate)
        assert place.wait(without).ok
        assert "devices 0" in place.output(without)


def _lines(directory):
    return [line for path in directory.glob("*.jsonl") for line in path.read_text().splitlines()]


def _memory(line):
    return json.loads(line)["gpus"][0]["memory"]
