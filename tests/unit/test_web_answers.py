import json

from studio_runner.web.answers import json_answer


def test_whatever_a_record_holds_is_valid_json():
    odd = {"\ud800": ["\udfff", float("nan"), (float("inf"), 1.5)], "n": {"x": -float("inf")}, "t": "ü"}
    answer = json_answer(odd, 202, {"X-Y": "z"})

    def refuse(constant):
        raise AssertionError(constant)

    assert json.loads(answer.body.decode("ascii"), parse_constant=refuse) == {
        "\ud800": ["\udfff", None, [None, 1.5]], "n": {"x": None}, "t": "ü",
    }  # fmt: skip
    assert (answer.status_code, answer.headers["content-type"], answer.headers["x-y"]) == (
        202,
        "application/json",
        "z",
    )
