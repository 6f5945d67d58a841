"""RabbitMQ (AMQP 0-9-1): see docs/reference/rabbitmq.md."""

from studio_runner.queues.rabbitmq.broker import RabbitBroker
from studio_runner.queues.rabbitmq.options import RabbitOptions, Tls

__all__ = ["RabbitBroker", "RabbitOptions", "Tls"]
