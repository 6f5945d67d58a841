"""The completion service of the StudioML client: many tasks fanned out and gathered."""

import json

import pytest

from studio_runner.testing import QUEUE

pytestmark = [pytest.mark.network, pytest.mark.slow]

TASKS = 6


def test_many_tasks_are_fanned_out_and_gathered(completion_service, runner, sections, queue):
    completion_service.configure(**sections)
    project = completion_service.project("fan_out.py", "task.py")
    said = completion_service.call("python", "fan_out.py", queue, project / "task.py", str(TASKS), cwd=project)
    gathered = json.loads(said.splitlines()[-1])
    first = '"""One task of a completion service."""'
    assert gathered == {str(number): {"square": number**2, "extra": first} for number in range(TASKS)}
    assert not runner.leftovers()
    assert not runner.dead_letters(QUEUE)
