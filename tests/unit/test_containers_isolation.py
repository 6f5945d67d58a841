from pathlib import Path

import pytest

from studio_runner.environments.containers import isolation
from studio_runner.environments.containers.isolation import Box, binds, launcher, options, variables
from studio_runner.environments.containers.runtime import read_runtime
from studio_runner.errors import EnvironmentFailedError
from studio_runner.process.hidden import places_of

FLAGS = "--bind --containall --home --net --network --no-eval --no-mount --no-privs --nv --pwd --rocm --security --workdir"
HELP = f"Options:\n  {FLAGS}\n or 'bind-paths' to disable all"
NEW = read_runtime("/usr/bin/apptainer", "apptainer version 1.4.5", HELP)
OLD = read_runtime("/usr/bin/singularity", "singularity version 3.5.2",
                   HELP.replace("--no-eval --no-mount ", "").replace("'bind-paths'", ""))  # fmt: skip
BOX = Box(Path("/srv/experiments/a.1"), read_only=(Path("/srv/experiments/a.1/data"),))
EMPTY = Path("/empty")


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("apptainer version 1.4.5", (1, 4)),
        ("singularity version 3.8.7", (3, 8)),
        ("singularity-ce version 4.1.0-jammy", (4, 1)),
        ("singularity version 3.0.1-1", (3, 0)),
    ],
)
def test_runtimes_are_known_by_what_they_say(said, version):
    assert read_runtime("/x", said, HELP).version == version


@pytest.mark.parametrize("said", ["singularity version 2.6.1", "true (GNU coreutils) 9.1", "", "2.6.1-dist"])
def test_others_and_older_ones_are_refused(said):
    assert read_runtime("/x", said, HELP) is None


def test_the_attempts_directory_is_all_that_can_be_written():
    writable = [bind for bind in binds(BOX, EMPTY) if not bind.endswith(":ro")]

    assert writable == ["/srv/experiments/a.1:/srv/experiments/a.1:rw"]


def test_what_lies_in_another_comes_after_it():
    found = [bind.split(":")[1] for bind in binds(BOX, EMPTY)]

    assert found.index("/srv/experiments/a.1") < found.index("/srv/experiments/a.1/data")
    assert found == sorted(found, key=len)


@pytest.mark.parametrize("label", ["a:/etc", "a,b", "a\\b"])
def test_a_label_that_the_runtime_would_misread_is_refused(label):
    box = Box(BOX.directory, read_only=(BOX.directory / label,))

    with pytest.raises(EnvironmentFailedError, match="mean something else"):
        binds(box, EMPTY)


def test_variables_are_handed_over_beside_the_command_line():
    assert variables(NEW, {"A": "$(x)"}) == {"APPTAINERENV_A": "$(x)"}
    assert variables(OLD, {"A": "x"}) == {"SINGULARITYENV_A": "x"}


@pytest.mark.parametrize("value", ["$HOME", "`id`", 'a"b', "a\\b"])
def test_an_old_runtime_would_expand_some_values_and_does_not_get_them(value):
    with pytest.raises(EnvironmentFailedError, match="The variable TOKEN cannot be handed") as caught:
        variables(OLD, {"TOKEN": value})

    assert value not in str(caught.value)


def test_root_needs_a_runtime_that_can_keep_its_containers_in():
    with pytest.raises(EnvironmentFailedError, match="it has no --no-mount") as caught:
        launcher(OLD, 0)

    assert "ordinary user" in caught.value.hint
    assert launcher(OLD, 1000) == ()


def test_root_protects_the_device_nodes_first():
    assert "rbind,ro /dev /dev" in " ".join(launcher(NEW, 0))


@pytest.mark.parametrize(("vendor", "flag"), [("nvidia", "--nv"), ("amd", "--rocm")])
def test_reserved_cards_are_shown(vendor, flag):
    assert flag in list(options(NEW, Box(BOX.directory, vendor=vendor), EMPTY))
    assert flag not in list(options(NEW, BOX, EMPTY))


def test_the_network_can_be_taken_away():
    chosen = list(options(NEW, Box(BOX.directory, network=False), EMPTY))

    assert chosen[chosen.index("--net") :][:3] == ["--net", "--network", "none"]
    assert "--net" not in list(options(NEW, BOX, EMPTY))


def test_the_filter_of_system_calls_is_part_of_the_package():
    assert "keyctl" in isolation.SECCOMP.read_text()


def test_what_is_noted_of_the_output_is_out_of_reach():
    notes = places_of(BOX.directory)
    seen = [Path(bind.split(":")[1]) for bind in binds(BOX, EMPTY)]
    assert not [place for place in seen if notes.is_relative_to(place)]
