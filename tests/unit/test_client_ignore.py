"""Which files of a working directory travel."""

import pytest

from studio_runner.client.ignore import DEFAULTS, IgnoreRules


def travels(path, lines, tmp_path):
    """Whether a file travels, asked as a walk asks: from the top directory down."""
    keep = IgnoreRules([*DEFAULTS, *lines]).keeps(tmp_path)
    parents = path.split("/")[:-1]
    above = all(keep("/".join(parents[: i + 1]), True) for i in range(len(parents)))
    return above and keep(path, False)


@pytest.mark.parametrize(
    ("lines", "path", "expected"),
    [
        ([], "train.py", True),
        ([], ".git/config", False),
        ([], "sub/.git/config", False),
        ([], ".gitignore", True),
        ([], "pkg/__pycache__/m.cpython-311.pyc", False),
        ([], "old.pyc", False),
        ([], ".venv/bin/python", False),
        ([], "web/node_modules/x/index.js", False),
        ([], "thing.egg-info/PKG-INFO", False),
        ([], ".studioml_ignore", False),
        ([], "environment.yml", True),
        (["*.ckpt"], "a/b/model.ckpt", False),
        (["*.ckpt", "!keep.ckpt"], "a/keep.ckpt", True),
        (["!keep.ckpt", "*.ckpt"], "a/keep.ckpt", False),
        (["data/"], "data/x.bin", False),
        (["data/"], "sub/data/x.bin", False),
        (["data/"], "data", True),
        (["/data"], "data/x.bin", False),
        (["/data"], "sub/data/x.bin", True),
        (["sub/data"], "sub/data/x.bin", False),
        (["sub/data"], "other/sub/data/x.bin", True),
        (["**/logs"], "a/b/logs/x", False),
        (["**/logs"], "logs/x", False),
        (["a/**/z"], "a/z", False),
        (["a/**/z"], "a/b/c/z", False),
        (["a/**"], "a/b/c", False),
        (["a/**"], "a", True),
        (["?.txt"], "a.txt", False),
        (["?.txt"], "ab.txt", True),
        (["[ab].txt"], "b.txt", False),
        (["[!ab].txt"], "b.txt", True),
        (["[!ab].txt"], "c.txt", False),
        (["[a-c]x"], "bx", False),
        (["*"], "a/b.py", False),
        (["/*", "!/src"], "src/a.py", True),
        (["/*", "!/src"], "top.py", False),
        (["# comment", ""], "# comment", True),
        ([r"\#file"], "#file", False),
        ([r"\!file"], "!file", False),
        (["a b  "], "a b", False),
        (["a.c"], "abc", True),
        (["[unclosed"], "[unclosed", False),
        (["!.git/"], ".git/config", True),
        (["dir\n"], "dir/x", False),
    ],
)
def test_a_pattern_decides_whether_a_file_travels(lines, path, expected, tmp_path):
    assert travels(path, lines, tmp_path) is expected


def test_a_virtual_environment_stays_behind_under_any_name(tmp_path):
    (tmp_path / "my-env").mkdir()
    (tmp_path / "my-env" / "pyvenv.cfg").touch()
    (tmp_path / "env").mkdir()
    keep = IgnoreRules.of_workspace(tmp_path).keeps(tmp_path)
    assert not keep("my-env", True)
    assert keep("env", True)


def test_captured_data_stays_whole_but_for_its_own_ignore_file(tmp_path):
    (tmp_path / ".studioml_ignore").write_text("*.tmp\n")
    keep = IgnoreRules.of_data(tmp_path).keeps(tmp_path)
    assert keep("__pycache__", True)
    assert keep("x.pyc", False)
    assert not keep("x.tmp", False)
