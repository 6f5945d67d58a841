"""What goes wrong with SQS, in words: which service, which key, what to do; never a secret."""

from dataclasses import dataclass

from studio_runner.errors import BrokerError

SKEW = 300.0
"""Seconds by which a clock may differ before AWS takes no signature any more."""


class QueueMissingError(BrokerError):
    """There is no such queue, or no longer."""


class HandleInvalidError(BrokerError):
    """SQS does not take the receipt handle: the message is not in flight, or with somebody else."""


class TooLargeError(BrokerError):
    """The message is larger than the queue takes."""


@dataclass(frozen=True)
class Answer:
    """An error as SQS gave it. `skew` is by how many seconds our clock is ahead of the service's."""

    code: str
    message: str
    skew: float = 0.0


_MISSING = {"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"}
_HANDLES = {"ReceiptHandleIsInvalid", "MessageNotInflight", "AWS.SimpleQueueService.MessageNotInflight"}
_SIGNATURES = {
    "SignatureDoesNotMatch",
    "InvalidSignatureException",
    "RequestExpired",
    "RequestTimeTooSkewed",
    "AuthFailure",
}
_KEYS = {"InvalidClientTokenId", "UnrecognizedClientException", "InvalidAccessKeyId", "InvalidAccessKeyIdException"}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException"}
_DENIED = {"AccessDenied", "AccessDeniedException", "OptInRequired"}
_SIZES = ("Message must be shorter", "exceeds", "message length", "too large", "too long")


def fault_of(answer: Answer, doing: str, where: str) -> BrokerError:
    """The error to raise for an answer of SQS to `doing` (a phrase that names the queue)."""
    said = f"{doing} at {where}"
    code = answer.code.rsplit("#", 1)[-1]
    if code in _MISSING or code.endswith("QueueDoesNotExist"):
        return QueueMissingError(f"{said}: there is no such queue")
    if code in _HANDLES or "receipt handle" in answer.message.lower():
        return HandleInvalidError(f"{said}: the message is not held here any more ({code})")
    if code == "InvalidParameterValue" and any(word in answer.message for word in _SIZES):
        return TooLargeError(f"{said}: the message is too large ({answer.message})", hint=SIZE_HINT)
    return _refusal(code, answer, said)


SIZE_HINT = "send data as artifacts, or raise the queue's MaximumMessageSize"


def _refusal(code: str, answer: Answer, said: str) -> BrokerError:
    if code in _SIGNATURES and abs(answer.skew) > SKEW:
        sense = "ahead of" if answer.skew > 0 else "behind"
        return BrokerError(
            f"{said}: this machine's clock is {abs(answer.skew):.0f} s {sense} the service's ({code})",
            hint="set the clock (NTP)",
        )
    if code in _SIGNATURES:
        return BrokerError(
            f"{said}: the secret key does not belong to the access key ({code})", hint="check the credentials"
        )
    if code in _KEYS:
        return BrokerError(
            f"{said}: the access key is not known ({code})", hint="check the credentials and the region"
        )
    if code in _EXPIRED:
        return BrokerError(f"{said}: the session token has expired ({code})", hint="get fresh credentials")
    if code in _DENIED:
        return BrokerError(
            f"{said}: not allowed ({code})", hint="see the permissions that docs/reference/sqs.md lists"
        )
    return BrokerError(f"{said}: {code}: {answer.message}")
