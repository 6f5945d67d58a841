"""Who asks next."""

import asyncio

import pytest

from studio_runner.errors import BrokerError
from studio_runner.queues.rabbitmq.errands import Errands
from studio_runner.queues.rabbitmq.turns import Turns


async def ask(turns, queue, order, *, served=True):
    async with turns.turn(queue) as turn:
        order.append(queue)
        turn.served = served


async def test_the_queue_that_was_served_longest_ago_is_next():
    turns, order = Turns(), []
    for queue in "abc":
        await ask(turns, queue, order)
    await ask(turns, "a", order)
    async with turns.turn("x"):
        tasks = [asyncio.create_task(ask(turns, queue, order)) for queue in "cab"]
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert order == list("abc") + list("abca")


async def test_asking_in_vain_costs_no_place():
    turns, order = Turns(), []
    await ask(turns, "a", order)
    await ask(turns, "b", order, served=False)
    async with turns.turn("x"):
        tasks = [asyncio.create_task(ask(turns, queue, order)) for queue in "ab"]
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert order[2:] == ["b", "a"]


async def test_whoever_gives_up_waiting_blocks_nobody():
    turns, order = Turns(), []
    async with turns.turn("x"):
        leaving, staying = (asyncio.create_task(ask(turns, queue, order)) for queue in "ab")
        await asyncio.sleep(0)
    leaving.cancel()
    await staying
    await asyncio.gather(leaving, return_exceptions=True)
    await ask(turns, "c", order)
    assert order[-1] == "c"


async def test_an_errand_goes_on_without_its_caller_and_is_undone():
    errands, undone = Errands(), []
    begun, proceed = asyncio.Event(), asyncio.Event()

    async def work():
        begun.set()
        await proceed.wait()
        return "found"

    async def undo(result):
        undone.append(result)

    caller = asyncio.create_task(errands.run(work(), undo))
    await begun.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert undone == []
    proceed.set()
    await errands.close(5)
    assert undone == ["found"]


async def test_what_an_errand_fails_of_reaches_its_caller():
    async def work():
        raise BrokerError("no")

    with pytest.raises(BrokerError, match="no"):
        await Errands().run(work())
