"""The unit that the hardening guide offers."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from studio_runner.cli.table import load

UNIT = Path(__file__).parents[2] / "examples" / "studio-runner.service"
ANALYZE = shutil.which("systemd-analyze")


def settings(name):
    return [line.partition("=")[2] for line in UNIT.read_text().splitlines() if line.startswith(f"{name}=")]


def test_its_command_is_one():
    [line] = settings("ExecStart")
    _, name, *arguments = shlex.split(line)
    context = load(name).make_context(name, arguments)
    assert not context.args


@pytest.mark.skipif(ANALYZE is None, reason="there is no systemd-analyze here")
def test_systemd_understands_it_and_finds_little_to_say(tmp_path):
    """Exposure is from 0 to 10, times ten."""
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/studio-runner/bin/studio-runner", "/bin/true"))
    understood = subprocess.run([ANALYZE, "verify", unit], capture_output=True, text=True, check=False, timeout=60)
    assert (understood.returncode, understood.stderr) == (0, "")
    done = subprocess.run(
        [ANALYZE, "security", "--offline=true", "--threshold=35", unit], capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
