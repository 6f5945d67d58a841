from dataclasses import replace

import pytest

from studio_runner.environments.requirements import RequirementSet, Target, read_requirements, requirement_name
from studio_runner.errors import EnvironmentFailedError

PYTHON_3 = Target((3, 11, 7))


def read(*lines, variables=None, target=PYTHON_3) -> RequirementSet:
    return read_requirements(lines, variables or {}, target)


@pytest.mark.parametrize(
    "line", ["Python==2.7.12", "wsgiref==0.1.2", "argparse==1.2.1", "pkg-resources==0.0.0", "pkg_resources==0.0.0"]
)
def test_parts_of_the_interpreter_are_left_out_and_said_so(line):
    found = read(line, "six==1.16.0", target=Target((2, 7, 18)))

    assert found.lines == ("six==1.16.0",)
    assert found.notes == (f"{line}: left out, it is part of the interpreter",)


def test_argparse_stays_where_the_interpreter_has_none():
    assert read("argparse==1.2.1", target=Target((2, 6, 9))).lines == ("argparse==1.2.1",)


@pytest.mark.parametrize("line", ["python-dateutil==2.8.2", "pythonlangutil==0.1", "setuptools==40.0.0"])
def test_similar_names_stay(line):
    assert read(line).lines == (line,)


def test_blanks_and_comments_are_nothing():
    assert read("", "  ", "# a comment", "six  # why", "## FIXME: could not find").lines == ("six",)


def test_continued_lines_are_one_requirement():
    found = read("six==1.16.0 \\\n    --hash=sha256:aa \\", "    --hash=sha256:bb")

    assert [line.split() for line in found.lines] == [["six==1.16.0", "--hash=sha256:aa", "--hash=sha256:bb"]]


def test_an_element_with_a_line_break_is_two_lines():
    assert read("six\nidna").lines == ("six", "idna")


class TestVariables:
    def test_known_ones_are_expanded_and_unknown_ones_left_alone(self):
        found = read("six==${SIX}", "other==${NOBODY}", variables={"SIX": "1.16.0"})

        assert found.lines == ("six==1.16.0", "other==${NOBODY}")

    def test_what_stands_in_a_url_is_a_secret_and_a_version_is_not(self):
        variables = {"TOKEN": "s3cr3t", "SIX": "1.16.0"}
        found = read("six==${SIX}", "p @ git+https://${TOKEN}@host/p", variables=variables)

        assert found.lines[1] == "p @ git+https://s3cr3t@host/p"
        assert found.secrets == {"s3cr3t"}

    def test_no_note_shows_a_secret(self):
        found = read(
            "argparse @ https://${TOKEN}@host/argparse.whl",
            "x @ file:///nowhere/${TOKEN}/x-1.0.tar.gz",
            variables={"TOKEN": "s3cr3t"},
        )

        assert found.notes
        assert not any("s3cr3t" in note for note in found.notes)

    def test_a_refused_line_shows_no_credentials(self):
        with pytest.raises(EnvironmentFailedError) as caught:
            read("--find-links https://me:pw@host/x -r https://me:pw@host/list")

        assert "pw" not in str(caught.value)

    def test_a_value_with_a_line_break_is_refused(self):
        with pytest.raises(EnvironmentFailedError, match="TOKEN"):
            read("six==${TOKEN}", variables={"TOKEN": "1\n--index-url http://evil"})

    def test_a_value_cannot_become_an_option(self):
        with pytest.raises(EnvironmentFailedError, match="not allowed"):
            read("${TOKEN}", variables={"TOKEN": "-r /etc/passwd"})


class TestEditable:
    def test_a_repository_becomes_an_ordinary_requirement(self):
        found = read("-e git+https://host/repo@abc123#egg=name&subdirectory=python")

        assert found.lines == ("name @ git+https://host/repo@abc123#subdirectory=python",)

    def test_a_repository_without_a_name_keeps_its_address(self):
        assert read("--editable=git+https://host/repo@v1").lines == ("git+https://host/repo@v1",)

    @pytest.mark.parametrize("line", ["-e .", "-e /home/somebody/project", "./project", "-e ../other#egg=other"])
    def test_a_directory_of_the_sender_is_left_out(self, line):
        found = read(line, "six")

        assert found.lines == ("six",)
        assert "sender's machine" in found.notes[0]


class TestFiles:
    def test_a_file_that_is_there_is_used(self, tmp_path):
        wheel = tmp_path / "six-1.16.0-py2.py3-none-any.whl"
        wheel.touch()

        assert read(f"six @ {wheel.as_uri()}").lines == (f"six @ {wheel.as_uri()}",)

    def test_the_path_of_a_conda_build_means_the_package(self):
        found = read("numpy @ file:///tmp/build/80754af9/numpy_and_numpy_base/work")

        assert found.lines == ("numpy",)
        assert "numpy is installed instead" in found.notes[0]

    @pytest.mark.parametrize(
        "line",
        [
            "file:///home/me/six-1.16.0-py2.py3-none-any.whl",
            "six @ file:///home/me/six-1.16.0.tar.gz",
            "./dist/six-1.16.0-py2.py3-none-any.whl",
        ],
    )
    def test_the_name_of_a_missing_file_says_the_version(self, line):
        assert read(line).lines == ("six==1.16.0",)


class TestPins:
    def test_the_same_line_twice_counts_once(self):
        assert read("six==1.16.0", "six==1.16.0").lines == ("six==1.16.0",)

    def test_of_two_pins_the_last_counts_and_it_is_said(self):
        found = read("six==1.15.0", "Six==1.16.0")

        assert found.lines == ("Six==1.16.0",)
        assert "instead of six==1.15.0" in found.notes[0]

    def test_two_bounds_both_count(self):
        assert read("numpy>=1.20", "numpy<2").lines == ("numpy>=1.20", "numpy<2")

    def test_pins_of_packaging_tools_can_be_taken_out(self):
        found = read("six==1.16.0", "pip==9.0.1", "Setuptools==20.0", "wheel==0.1")

        assert found.without_tools() == ("six==1.16.0",)
        assert replace(found, setuptools="setuptools<81").without_tools() == ("six==1.16.0", "setuptools<81")


class TestTensorflow:
    @pytest.mark.parametrize(
        ("line", "gpus", "installed"),
        [
            ("tensorflow==1.13.1", True, "tensorflow-gpu==1.13.1"),
            ("tensorflow==1.13.1", False, "tensorflow==1.13.1"),
            ("tensorflow==1.15.0", True, "tensorflow==1.15.0"),
            ("tensorflow==2.4.0", True, "tensorflow==2.4.0"),
            ("tensorflow-estimator==1.13.0", True, "tensorflow-estimator==1.13.0"),
        ],
    )
    def test_only_old_releases_have_a_package_of_their_own_for_gpus(self, line, gpus, installed):
        assert read(line, target=Target((3, 6, 15), gpus)).lines == (installed,)


class TestOptions:
    def test_indexes_and_choices_are_taken(self):
        found = read(
            "--index-url https://a/simple",
            "--extra-index-url=https://b/simple",
            "-f https://c/links",
            "--no-binary numpy,scipy",
            "--only-binary=:all:",
            "--pre",
        )

        assert found.sources.default == "https://a/simple"
        assert found.sources.extra == ("https://b/simple",)
        assert found.sources.find_links == ("https://c/links",)
        assert found.choices.no_binary == ("numpy", "scipy")
        assert found.choices.only_binary == (":all:",)
        assert found.choices.prereleases

    @pytest.mark.parametrize(
        "line",
        [
            "-r /etc/passwd",
            "--requirement=other.txt",
            "-c constraints.txt",
            "-r/etc/passwd",
            "--find-links /etc",
            "--find-links file:///etc",
            "--extra-index-url file:///srv",
            "--client-cert /keys/key.pem",
            "--index-url",
        ],
    )
    def test_what_could_read_files_of_the_machine_is_refused(self, line):
        with pytest.raises(EnvironmentFailedError, match="not allowed"):
            read(line)

    @pytest.mark.parametrize("line", ["--prefer-binary", "--trusted-host host", "--require-hashes"])
    def test_what_has_no_effect_is_left_out_with_a_note(self, line):
        found = read(line, "six")

        assert found.lines == ("six",)
        assert len(found.notes) == 1


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("Foo.Bar_baz==1", "foo-bar-baz"),
        ("six @ https://host/six.whl", "six"),
        ("git+https://host/repo", ""),
        ("https://host/six.whl", ""),
        ("./x", ""),
    ],
)
def test_requirement_name(line, name):
    assert requirement_name(line) == name


@pytest.mark.parametrize("place", ["/x/-r-1.0.tar.gz", "file:///x/-r-1.0.tar.gz", "./-e-1.0.zip"])
def test_the_name_of_a_file_becomes_no_option_of_the_installer(place):
    assert read(place).lines == ()
    assert read(f"six @ file:///x/{place.rpartition('/')[2]}").lines == ("six",)


@pytest.mark.parametrize("egg", ["-r /etc/passwd #", "-f x", "--index-url http://host", "-"])
def test_the_name_after_an_address_becomes_no_option_of_the_installer(egg):
    assert read(f"-e git+https://host/repo#egg={egg}").lines == ("git+https://host/repo",)


@pytest.mark.parametrize("line", ["x @ file://[", "file://[", "-e x @ file://[", "x @ file:///" + "a" * 5000])
def test_a_file_that_none_can_be_is_not_on_this_machine(line):
    assert read(line).lines in ((), ("x",))
    assert "not on this machine" in read(line).notes[0] or "on the sender's machine" in read(line).notes[0]


def test_an_index_of_no_possible_host_is_refused():
    with pytest.raises(EnvironmentFailedError, match="http or https URL"):
        read("-i http://[")


@pytest.mark.parametrize(
    "lines",
    [
        ("six==1.${TOKEN}", "six==1.16"),
        ("x @ file:///none/${TOKEN}-1.0.tar.gz",),
        ("/none/${TOKEN}-1.0.tar.gz",),
        ("-e /none/${TOKEN}-1.0.tar.gz",),
    ],
)
def test_no_note_says_what_a_variable_holds(lines):
    found = read(*lines, variables={"TOKEN": "s3cr3t"})
    assert found.notes
    assert "s3cr3t" not in "".join(found.notes)


def test_a_few_letters_do_not_stand_for_gigabytes():
    with pytest.raises(EnvironmentFailedError, match="too long"):
        read_requirements(["${A}" * 4000], {"A": "x" * 100_000}, PYTHON_3)


def test_a_line_goes_on_for_as_long_as_it_says():
    assert read_requirements(["six\\", "==1.16\\", ".0", "a\\"], {}, PYTHON_3).lines == ("six==1.16.0", "a")


@pytest.mark.parametrize("line", [" " * 300_000 + "x", "a" + " " * 300_000 + "b", "a" + "\t" * 300_000 + "@"])
def test_a_hostile_line_takes_no_longer_than_any_other(line):
    """Blanks alone kept the runner busy for minutes."""
    read_requirements([line], {}, Target((3, 11)))
