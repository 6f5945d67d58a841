"""What everything of one runner in one virtual host shares."""

from dataclasses import dataclass

from studio_runner.queues.complaints import Complaints
from studio_runner.queues.rabbitmq.errands import Errands
from studio_runner.queues.rabbitmq.link import Link
from studio_runner.queues.rabbitmq.options import RabbitOptions
from studio_runner.queues.rabbitmq.press import Press


@dataclass(frozen=True)
class Site:
    """`owner` names this runner in the names of its hold queues, and is never used again by another one."""

    owner: str
    options: RabbitOptions
    complaints: Complaints
    errands: Errands
    link: Link
    press: Press
