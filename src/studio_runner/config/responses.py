"""Names of response queues: `<queue>_response` has reports on the experiments of `<queue>`, never experiments."""

import re

_ENDING = "_response"
_PARTS = re.compile(r"(?P<name>.*?)(?P<rest>(\.fifo)?(@[^@]*)?)", re.DOTALL)
_PLAIN = re.compile(r"(?P<name>.*)(?P<rest>)", re.DOTALL)


def response_of(queue: str) -> str:
    """The response queue of a queue, as people write both; a response queue is its own.

    What follows the name stays at the end: the virtual host of a queue of RabbitMQ (`rmq_x@VHOST`), the ending of a
    FIFO queue of SQS (`sqs_x.fifo`).
    """
    match = _split(queue)
    return queue if match["name"].endswith(_ENDING) else f"{match['name']}{_ENDING}{match['rest']}"


def is_response(queue: str) -> bool:
    """Whether it is a queue of reports."""
    return response_of(queue) == queue


def _split(queue: str) -> re.Match[str]:
    match = (_PARTS if queue.startswith(("rmq_", "sqs_")) else _PLAIN).fullmatch(queue)
    assert match  # noqa: S101 - both take anything
    return match
