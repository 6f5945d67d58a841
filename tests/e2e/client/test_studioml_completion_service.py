"""The completion service of the StudioML client: many tasks fanned out and gathered."""

import pytest

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(900)]

TASKS = 6


def test_many_tasks_are_fanned_out_and_gathered(completion_service, runner, sections, fan_out, until):
    completion_service.configure(**sections)
    gathered = fan_out(TASKS)
    first = '"""One task of a completion service."""'
    assert gathered == {str(number): {"square": number**2, "extra": first} for number in range(TASKS)}
    until(lambda: not runner.leftovers())
