import logging

import pytest


@pytest.fixture
def _same_log():
    """Commands set up the log of the whole process; put it back."""
    loggers = logging.getLogger(), logging.getLogger("studio_runner")
    before = [(logger, logger.level, logger.handlers[:]) for logger in loggers]
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers
