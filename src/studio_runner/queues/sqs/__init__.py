"""Amazon SQS and compatible services, spoken to with aiobotocore. `broker` is where to begin reading."""

from studio_runner.queues.sqs.broker import SqsBroker
from studio_runner.queues.sqs.options import SqsOptions

__all__ = ["SqsBroker", "SqsOptions"]
