"""Several runners on one queue root share the work, and each experiment runs exactly once to its end."""

from collections import Counter

import pytest

from studio_runner.testing import installation

MANY = 200
SCRIPT = """
import os
tally = os.open(os.environ["TALLY"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.write(tally, f"{os.environ['NUMBER']} {os.environ['STUDIO_RUNNER_ATTEMPT'].split('/')[0]}\\n".encode())
print("experiment", os.environ["NUMBER"])
"""


@pytest.fixture
def place(cache):
    with installation(cache) as made:
        yield made


def test_two_runners_run_everything_exactly_once(place, until):
    tally = place.home / "tally"
    small = {"cpus": 1, "ram": "100mb", "hdd": "10mb"}
    with place.daemon("--lease", "60s"), place.daemon("--lease", "60s"):
        keys = [
            place.submit(
                {"main.py": SCRIPT},
                resources_needed=small,
                config={"env": {"TALLY": str(tally), "NUMBER": str(number)}},
            )
            for number in range(MANY)
        ]
        results = [place.wait(key) for key in keys]
        until(lambda: not place.leftovers())

    assert all(result.ok and result.attempt == 1 for result in results)
    for number, key in enumerate(keys):
        assert place.output(key).endswith(f"experiment {number}\n")
    ran = [line.split() for line in tally.read_text().splitlines()]
    assert Counter(number for number, _ in ran) == {str(number): 1 for number in range(MANY)}
    shares = Counter(runner for _, runner in ran)
    assert len(shares) == 2
    assert min(shares.values()) > 0
    assert place.dead_letters() == []
    assert "Traceback" not in place.log()


def test_a_second_runner_takes_over_what_the_first_can_never_run(place):
    """Each leaves what does not fit to the other, and neither spins on it."""
    large = {"cpus": 1, "ram": "300mb", "hdd": "10mb"}
    with place.daemon("--max-mem", "200mb", "--limit-idle-duration", "10m"):
        key = place.submit({"main.py": "print('found room')"}, resources_needed=large)
        small = place.submit({"main.py": "print('small')"}, resources_needed={"cpus": 1, "ram": "100mb"})
        assert place.wait(small).ok
        assert not place.stored(key, "_results").exists()
        with place.daemon("--max-mem", "400mb"):
            assert place.wait(key).ok
    assert place.log().count("can never run on this machine") == 1
