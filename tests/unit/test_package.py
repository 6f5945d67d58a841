import studio_runner


def test_version_is_a_release():
    assert studio_runner.__version__.count(".") == 2
