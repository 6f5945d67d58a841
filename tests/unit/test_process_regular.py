import os

import pytest

from studio_runner.process.follow import follow
from studio_runner.process.output import Output
from studio_runner.process.regular import open_regular


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "host" / "secret"
    path.parent.mkdir()
    path.write_text("of the host")
    return path


@pytest.fixture
def place(tmp_path):
    directory = tmp_path / "attempt" / "output"
    directory.mkdir(parents=True)
    return directory / "output"


def test_a_regular_file_is_opened(place):
    place.write_text("hello")

    descriptor = open_regular(place)

    assert os.read(descriptor, 10) == b"hello"
    os.close(descriptor)


def test_a_link_to_a_file_is_not_followed(place, secret):
    place.symlink_to(secret)

    assert open_regular(place) is None


def test_a_link_in_the_place_of_the_directory_is_not_followed(place, secret):
    place.parent.rmdir()
    place.parent.symlink_to(secret.parent)

    assert open_regular(place.with_name("secret")) is None


def test_a_pipe_keeps_nobody_waiting(place):
    os.mkfifo(place)

    assert open_regular(place) is None
    assert open_regular(place, os.O_WRONLY | os.O_APPEND) is None


def test_nothing_is_no_error(place):
    assert open_regular(place) is None
    assert open_regular(place.parent.parent / "nowhere" / "output") is None


async def test_those_who_follow_the_output_see_nothing_of_a_file_that_it_is_linked_to(place, secret):
    place.symlink_to(secret)

    assert [piece async for piece in follow(place, lambda: True)] == []


def test_a_bounded_output_is_not_led_out_by_a_link_in_the_place_of_its_temporary_file(place, secret):
    with Output(place, 4096) as output:
        (place.parent.parent / ".output.new").symlink_to(secret)
        output.write(b"line\n" * 5000)

    assert secret.read_text() == "of the host"
    assert b"left out here" in place.read_bytes()


def test_a_bounded_output_is_not_led_out_by_a_link_in_the_place_of_its_directory(place, secret):
    with Output(place, 4096) as output:
        place.parent.rename(place.parent.with_name("elsewhere"))
        place.parent.symlink_to(secret.parent)
        output.write(b"line\n" * 5000)

    assert [path.name for path in secret.parent.iterdir()] == ["secret"]
    assert secret.read_text() == "of the host"


def test_a_bounded_output_is_not_led_out_by_a_link_in_the_place_of_its_file(place, secret):
    with Output(place, 4096) as output:
        place.unlink()
        place.symlink_to(secret)
        output.write(b"line\n" * 5000)

    assert secret.read_text() == "of the host"
