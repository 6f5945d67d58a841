import os
import sys
from pathlib import Path

import pytest

from studio_runner.environments import indexes
from studio_runner.environments.indexes import Choices, Indexes, IndexReader, Sources, pip_files


@pytest.fixture
def operator(tmp_path, monkeypatch):
    """Reads what an operator with this home directory and these variables has configured."""
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "prefix"))
    monkeypatch.setattr(indexes, "SYSTEM", tmp_path / "etc")

    def read(**variables) -> Indexes:
        return IndexReader({"HOME": str(tmp_path), "XDG_CONFIG_DIRS": str(tmp_path / "xdg"), **variables}).read()

    return read


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_nothing_configured_is_uvs_default_with_the_best_version_of_all_indexes(operator):
    found = operator()

    assert found.for_uv() == {"UV_INDEX_STRATEGY": "unsafe-best-match"}
    assert found.for_pip() == {"PIP_CONFIG_FILE": os.devnull}
    assert found.uv_options() == ()


class TestPipFiles:
    def test_the_more_particular_file_wins(self, operator, tmp_path):
        write(tmp_path / "xdg/pip/pip.conf", "[global]\nindex-url = https://system/simple\ntimeout = 7\n")
        write(tmp_path / "etc/pip.conf", "[global]\nindex-url = https://machine/simple\n")
        assert operator().sources.default == "https://machine/simple"

        write(tmp_path / ".pip/pip.conf", "[global]\nindex-url = https://old/simple\n")
        write(tmp_path / ".config/pip/pip.conf", "[global]\nindex-url = https://user/simple\n")

        assert operator().sources.default == "https://user/simple"
        assert operator().transport.timeout == "7"

        write(tmp_path / "prefix/pip.conf", "[global]\nindex-url = https://site/simple\n")
        assert operator().sources.default == "https://site/simple"

        chosen = write(tmp_path / "chosen.conf", "[global]\nindex-url = https://chosen/simple\n")
        assert operator(PIP_CONFIG_FILE=str(chosen)).sources.default == "https://chosen/simple"

    def test_the_null_device_means_no_file_at_all(self, operator, tmp_path):
        write(tmp_path / ".pip/pip.conf", "[global]\nindex-url = https://old/simple\n")

        assert operator(PIP_CONFIG_FILE=os.devnull).sources.default is None
        assert not list(pip_files({"PIP_CONFIG_FILE": os.devnull, "HOME": str(tmp_path)}))

    def test_the_install_section_wins_over_the_global_one(self, operator, tmp_path):
        write(
            tmp_path / ".pip/pip.conf",
            "[install]\nindex_url = https://install/\n[global]\nindex-url = https://g/\n",
        )

        assert operator().sources.default == "https://install/"

    def test_lists_may_have_several_lines(self, operator, tmp_path):
        write(
            tmp_path / ".pip/pip.conf", "[global]\nextra-index-url = https://a/\n    https://b/\nno-binary = x,y\n"
        )

        assert operator().sources.extra == ("https://a/", "https://b/")
        assert operator().uv_options() == ("--no-binary=x", "--no-binary=y")

    def test_a_damaged_file_does_not_hide_the_others(self, operator, tmp_path):
        write(tmp_path / ".pip/pip.conf", "[global]\nindex-url = https://old/simple\n")
        write(tmp_path / ".config/pip/pip.conf", "index-url without a section\n")

        assert operator().sources.default == "https://old/simple"


class TestVariables:
    def test_pips_variables_win_over_its_files(self, operator, tmp_path):
        write(tmp_path / ".pip/pip.conf", "[global]\nindex-url = https://old/simple\n")

        assert operator(PIP_INDEX_URL="https://variable/").sources.default == "https://variable/"

    @pytest.mark.parametrize("name", ["UV_DEFAULT_INDEX", "UV_INDEX_URL"])
    def test_uvs_win_over_pips_also_for_pip(self, operator, name):
        found = operator(PIP_INDEX_URL="https://pip/", **{name: "https://uv/"})

        assert found.for_uv()["UV_DEFAULT_INDEX"] == "https://uv/"
        assert found.for_pip()["PIP_INDEX_URL"] == "https://uv/"

    def test_everything_of_pips_reaches_uv(self, operator, tmp_path):
        found = operator(
            PIP_INDEX_URL="https://a/",
            PIP_EXTRA_INDEX_URL="https://b/ https://c/",
            PIP_FIND_LINKS=f"{tmp_path} https://d/",
            PIP_TRUSTED_HOST="a b:8080",
            PIP_CERT="/ca.pem",
            PIP_CLIENT_CERT="/me.pem",
            PIP_PROXY="http://proxy:3128",
            PIP_TIMEOUT="30",
            PIP_PRE="1",
            PIP_CONSTRAINT="/constraints.txt",
            PIP_NO_INDEX="yes",
            PIP_ONLY_BINARY=":all:",
        )

        assert found.for_uv() == {
            "UV_INDEX_STRATEGY": "unsafe-best-match",
            "UV_DEFAULT_INDEX": "https://a/",
            "UV_INDEX": "https://b/ https://c/",
            "UV_FIND_LINKS": f"{tmp_path},https://d/",
            "UV_INSECURE_HOST": "a b:8080",
            "SSL_CERT_FILE": "/ca.pem",
            "SSL_CLIENT_CERT": "/me.pem",
            "ALL_PROXY": "http://proxy:3128",
            "UV_HTTP_TIMEOUT": "30",
            "UV_PRERELEASE": "allow",
            "UV_CONSTRAINT": "/constraints.txt",
        }
        assert found.uv_options() == ("--no-index", "--only-binary=:all:")

    def test_the_operators_strategy_and_credentials_are_passed_on(self, operator):
        found = operator(
            UV_INDEX_STRATEGY="first-index", UV_INDEX_CORP_PASSWORD="pw", UV_KEYRING_PROVIDER="subprocess"
        )

        variables = found.for_uv()
        assert variables["UV_INDEX_STRATEGY"] == "first-index"
        assert variables["UV_INDEX_CORP_PASSWORD"] == "pw"
        assert variables["UV_KEYRING_PROVIDER"] == "subprocess"

    @pytest.mark.parametrize(
        "name", ["UV_PYTHON", "UV_PROJECT", "UV_SYSTEM_PYTHON", "UV_COMPILE_BYTECODE", "UV_NO_CACHE"]
    )
    def test_what_would_make_another_environment_is_not(self, operator, name):
        assert name not in operator(**{name: "1"}).for_uv()

    def test_a_directory_that_is_missing_is_passed_over_as_pip_does(self, operator, tmp_path):
        assert "UV_FIND_LINKS" not in operator(PIP_FIND_LINKS=str(tmp_path / "nowhere")).for_uv()


class TestRequest:
    def test_a_request_may_add_an_index(self, operator):
        found, notes = operator().with_request(Sources(extra=("https://torch/",)), Choices(prereleases=True))

        assert found.sources.extra == ("https://torch/",)
        assert found.choices.prereleases
        assert notes == ()

    def test_it_may_choose_one_where_the_operator_has_none(self, operator):
        found, _ = operator().with_request(Sources(default="https://own/"), Choices())

        assert found.sources.default == "https://own/"

    def test_it_may_not_replace_the_operators(self, operator):
        found, notes = operator(PIP_INDEX_URL="https://corp/").with_request(
            Sources(default="https://own/"), Choices()
        )

        assert found.sources.default == "https://corp/"
        assert "this runner's own index" in notes[0]


class TestFingerprint:
    def test_it_changes_with_the_configuration_and_shows_no_credentials(self, operator):
        one = operator(PIP_INDEX_URL="https://me:pw@corp/").fingerprint()
        other = operator(PIP_INDEX_URL="https://me:other@corp/").fingerprint()

        assert one != other
        assert "pw" not in one
        assert one == operator(PIP_INDEX_URL="https://me:pw@corp/").fingerprint()

    def test_it_changes_with_the_content_of_a_constraints_file(self, operator, tmp_path):
        constraints = write(tmp_path / "constraints.txt", "six==1.15\n")
        before = operator(PIP_CONSTRAINT=str(constraints)).fingerprint()
        constraints.write_text("six==1.16\n")

        assert operator(PIP_CONSTRAINT=str(constraints)).fingerprint() != before

    def test_it_changes_with_uvs_own_file(self, operator, tmp_path):
        before = operator().fingerprint()
        write(tmp_path / ".config/uv/uv.toml", 'exclude-newer = "2024-01-01"\n')

        assert operator().fingerprint() != before


def test_a_changed_file_is_read_again_and_an_unchanged_one_is_not(tmp_path):
    path = write(tmp_path / ".pip/pip.conf", "[global]\nindex-url = https://a/\n")
    reader = IndexReader({"HOME": str(tmp_path)}, recheck=0)
    first = reader.read()
    assert reader.read() is first

    path.write_text("[global]\nindex-url = https://b/\n")
    os.utime(path, ns=(1, 1))
    assert reader.read().sources.default == "https://b/"
