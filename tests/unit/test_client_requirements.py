"""What an experiment needs installed."""

import sys

import pytest

from studio_runner.client import requirements
from studio_runner.client.requirements import Wanted, gather
from studio_runner.errors import NotFoundError, UsageError


def lines_of(path, text, workspace=None):
    path.write_text(text)
    return requirements.from_file(path, workspace or path.parent).lines


def test_a_requirements_file_without_its_comments(tmp_path):
    text = (
        "numpy==2.0 # fast\n\n# nothing\nsix>=1 \\\n  ,<2\nx @ git+https://h/r#egg=x\ny; python_version < '3.9'\n"
    )
    assert lines_of(tmp_path / "r.txt", text) == (
        "numpy==2.0", "six>=1   ,<2", "x @ git+https://h/r#egg=x", "y; python_version < '3.9'",
    )  # fmt: skip


def test_nested_files_are_resolved_beside_the_file_that_names_them(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "base.txt").write_text("-r more.txt\nbase\n")
    (tmp_path / "sub" / "more.txt").write_text("more\n")
    for spelling in ("-r sub/base.txt", "--requirement=sub/base.txt", "-rsub/base.txt", "-r 'sub/base.txt'"):
        assert lines_of(tmp_path / "r.txt", f"{spelling}\nown\n") == ("more", "base", "own")


def test_a_file_that_includes_itself_is_refused(tmp_path):
    (tmp_path / "b.txt").write_text("-r a.txt\n")
    with pytest.raises(UsageError, match="includes itself"):
        lines_of(tmp_path / "a.txt", "-r b.txt\n")


def test_a_nested_file_that_is_missing_is_named_with_the_one_that_names_it(tmp_path):
    with pytest.raises(NotFoundError, match=r"absent\.txt, which .*r\.txt includes"):
        lines_of(tmp_path / "r.txt", "-r absent.txt\n")


@pytest.mark.parametrize("line", ["-c limits.txt", "--constraint limits.txt"])
def test_constraints_are_refused_with_the_remedy(line, tmp_path):
    with pytest.raises(UsageError, match="constraints do not travel") as refusal:
        lines_of(tmp_path / "r.txt", f"{line}\n")
    assert "uv pip compile" in refusal.value.hint


def test_paths_are_made_independent_of_where_the_file_stands(tmp_path):
    libs, workspace = tmp_path / "libs", tmp_path / "ws"
    found = lines_of(tmp_path / "r.txt", "./libs/a[x]\n-e ./libs/b\n/abs/c.whl\n", workspace)
    assert found == (f"{libs}/a[x]", f"-e file://{libs}/b", "/abs/c.whl")


@pytest.mark.parametrize("line", [".", "-e .", "--editable=.", ".[dev]", "./"])
def test_the_working_directory_itself_is_not_installed_and_that_is_said(line, tmp_path):
    (tmp_path / "r.txt").write_text(f"six\n{line}\n")
    found = requirements.from_file(tmp_path / "r.txt", tmp_path)
    assert found.lines == ("six",)
    assert "travels with the experiment" in found.notes[0]


PYPROJECT = """
[project]
name = "My.Project"
dependencies = ["numpy>=2", "six"]
[project.optional-dependencies]
train = ["torch", "my-project[plots]"]
plots = ["matplotlib", "my_project[train]"]
"""


def test_a_pyproject_with_its_optional_groups(tmp_path):
    path = tmp_path / "pyproject.toml"
    path.write_text(PYPROJECT)
    assert requirements.from_pyproject(path).lines == ("numpy>=2", "six")
    assert requirements.from_pyproject(path, ["Train"]).lines == ("numpy>=2", "six", "torch", "matplotlib")


def test_an_unknown_group_is_refused_with_those_there_are(tmp_path):
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    with pytest.raises(UsageError, match="no optional group 'dev'") as refusal:
        requirements.from_pyproject(tmp_path / "pyproject.toml", ["dev"])
    assert "plots, train" in refusal.value.hint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tool.x]\n", "no \\[project\\] table"),
        ('[project]\nname="x"\ndynamic=["dependencies"]\n', "dynamic"),
        ('[project]\ndependencies="numpy"\n', "not a list"),
        ("[project\n", "cannot be read"),
    ],
)
def test_a_pyproject_that_says_nothing_is_refused(text, message, tmp_path):
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(UsageError, match=message):
        requirements.from_pyproject(tmp_path / "pyproject.toml")


async def test_without_anything_asked_the_project_is_looked_at(tmp_path):
    assert (await gather(Wanted(), tmp_path, None)).lines == ()
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    assert (await gather(Wanted(), tmp_path, None)).lines == ("numpy>=2", "six")
    (tmp_path / "requirements.txt").write_text("flask\n")
    found = await gather(Wanted(packages=("extra==1",)), tmp_path, None)
    assert found.lines == ("flask", "extra==1")
    assert found.source.endswith("requirements.txt")


async def test_what_is_asked_for_wins(tmp_path):
    (tmp_path / "requirements.txt").write_text("flask\n")
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / "mine.txt").write_text("six\nmine\n")
    both = Wanted(files=(tmp_path / "mine.txt",), pyproject=tmp_path / "pyproject.toml")
    assert (await gather(both, tmp_path, tmp_path / "no-venv")).lines == ("six", "mine", "numpy>=2")
    assert "torch" in (await gather(Wanted(extras=("train",)), tmp_path, None)).lines


async def test_a_virtual_environment_that_is_gone_is_said(tmp_path):
    with pytest.raises(UsageError, match="VIRTUAL_ENV"):
        await gather(Wanted(), tmp_path, tmp_path / "gone")


@pytest.mark.parametrize("name", ["version", "version_info"])
def test_the_python_version_is_the_virtual_environments(name, tmp_path):
    (tmp_path / "pyvenv.cfg").write_text(f"home = /usr/bin\n{name} = 3.8.18.final.0\n")
    assert requirements.python_version(tmp_path) == "3.8"


def test_without_one_it_is_this_pythons(tmp_path):
    assert requirements.python_version(None) == f"{sys.version_info.major}.{sys.version_info.minor}"
