"""What other programs of the same user learn of a runner's process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ORDINARY = """
import ctypes, os, resource, sys
from studio_runner.cli.discretion import keep_memory
if os.geteuid() == 0:  # whom the kernel refuses nothing
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # as any program is that was started so
"""
RUNNER = f"""{ORDINARY}
if sys.argv[1] == "discreet":
    keep_memory()
print("ready", flush=True)
sys.stdin.read()
"""
NEIGHBOUR = f"""{ORDINARY}
print(open(f"/proc/{{sys.argv[1]}}/environ").read())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
@pytest.mark.parametrize("how", ["discreet", "careless"])
def test_the_memory_of_a_runner_is_closed_to_programs_of_its_user(how):
    program = [sys.executable, "-c", RUNNER, how]
    environ = {"PATH": os.environ["PATH"], "SECRET": "open-sesame"}
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ) as runner:
        assert runner.stdout.readline() == b"ready\n"
        neighbour = [sys.executable, "-c", NEIGHBOUR, str(runner.pid)]
        looked = subprocess.run(neighbour, check=False, capture_output=True, text=True)
        limits = Path(f"/proc/{runner.pid}/limits").read_text().splitlines()

    core = next(line.split()[4] for line in limits if line.startswith("Max core"))
    if how == "careless":
        assert "open-sesame" in looked.stdout
    else:
        assert looked.stdout == ""
        assert "PermissionError" in looked.stderr
        assert core == "0"
