"""`--hyperparam`: grids and their way into the script."""

import itertools
import math

import pytest

from studio_runner.client.hyperparameters import Hyperparameter, grid, parse_hyperparameter, substitute
from studio_runner.errors import UsageError


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("lr=0.1", ["0.1"]),
        ("lr=0.1,0.01,1e-3", ["0.1", "0.01", "1e-3"]),
        ("batch=16,32", ["16", "32"]),
        ("layers=1:4", ["1.0", "2.0", "3.0", "4.0"]),
        ("layers=:2", ["0.0", "1.0", "2.0"]),
        ("x=0:0.5:1", ["0.0", "0.5", "1.0"]),
        ("x=0:3:1", ["0.0", "0.5", "1.0"]),
        ("x=0:2:10", ["0.0", "2.0", "4.0", "6.0", "8.0", "10.0"]),
    ],
)
def test_the_values_of_a_parameter(text, values):
    assert list(parse_hyperparameter(text).values) == values


def test_a_logarithmic_range_has_equal_ratios():
    values = [float(value) for value in parse_hyperparameter("lr=0.001:l4:1").values]
    assert len(values) == 4
    assert all(math.isclose(b / a, 10) for a, b in itertools.pairwise(values))
    assert math.isclose(values[0], 0.001)
    assert math.isclose(values[-1], 1)


@pytest.mark.parametrize(
    "text",
    [
        "lr",
        "=1",
        "lr=",
        "lr=a",
        "lr=1,b",
        "lr=1:x:2",
        "lr=nan",
        "lr=0:l3:1",
        "lr=1:0:2",
        "2x=1",
        "lr=1:l-2:3",
        "lr=0:1e9",
    ],
)
def test_what_cannot_be_read_is_refused(text):
    with pytest.raises(UsageError, match="--hyperparam"):
        parse_hyperparameter(text)


def test_a_grid_has_every_combination():
    points = grid([Hyperparameter("a", ("1", "2")), Hyperparameter("b", ("x", "y"))])
    assert points == [{"a": "1", "b": "x"}, {"a": "1", "b": "y"}, {"a": "2", "b": "x"}, {"a": "2", "b": "y"}]


def test_a_grid_that_explodes_is_refused():
    with pytest.raises(UsageError, match="1000000 experiments"):
        grid([Hyperparameter(name, ("1",) * 100) for name in "abc"])


def test_uses_become_the_value_and_assignments_stay():
    script = "lr = 0.5\ntrain(lr)\nf(lr=lr)\nlrs(x)\nprint(lr)"
    assert substitute(script, {"lr": "0.1"}) == "lr = 0.5\ntrain(0.1)\nf(lr=0.1)\nlrs(x)\nprint(0.1)"


def test_a_parameter_that_the_script_does_not_use_is_refused():
    with pytest.raises(UsageError, match="does not use the hyperparameter 'lr'"):
        substitute("lr = 0.5\n", {"lr": "0.1"})
