from studio_runner.environments.packages import installed


def distribution(site, folder, **files):
    for name, text in files.items():
        path = site / folder / name.replace("_", "-" if name.startswith("PKG") else "_")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_names_versions_dependencies_and_sizes(tmp_path):
    distribution(
        tmp_path,
        "pandas-2.0.dist-info",
        METADATA=(
            "Metadata-Version: 2.1\nName: pandas\nVersion: 2.0\nRequires-Dist: numpy>=1.21\n"
            "Requires-Dist: tzdata (>=2022) ; python_version > '3'\nRequires-Dist: pytest; extra == 'test'\n"
            "\nRequires-Dist: not-a-header\n"
        ),
        RECORD='pandas/__init__.py,sha256=x,100\n"pandas/a,b.py",sha256=y,20\npandas-2.0.dist-info/RECORD,,\n',
    )

    (package,) = installed(tmp_path)

    assert (package.name, package.version) == ("pandas", "2.0")
    assert package.requires == ("numpy", "tzdata")
    assert package.size == 120


def test_eggs_count_and_ruins_do_not(tmp_path):
    distribution(tmp_path, "old.egg-info", PKG_INFO="Name: old\nVersion: 0.1\n")
    distribution(tmp_path, "empty.dist-info", other="")
    distribution(tmp_path, "nameless.dist-info", METADATA="Version: 1\n")

    assert [package.name for package in installed(tmp_path)] == ["old"]


def test_hard_linked_distributions_have_one_identity(tmp_path):
    distribution(tmp_path / "a", "six-1.dist-info", METADATA="Name: six\nVersion: 1\n")
    (tmp_path / "b/six-1.dist-info").mkdir(parents=True)
    (tmp_path / "b/six-1.dist-info/METADATA").hardlink_to(tmp_path / "a/six-1.dist-info/METADATA")

    assert installed(tmp_path / "a")[0].identity == installed(tmp_path / "b")[0].identity
