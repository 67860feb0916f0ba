"""Buffers between threads: no sample leaves its place, and what is lost or missing is counted."""

from __future__ import annotations

import threading

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sbm_cli.live.buffers import Inbox, JitterBuffer


def ramp(start: int, count: int) -> np.ndarray:
    return np.arange(start + 1, start + count + 1, dtype=np.float32)


def filled(samples: int, chunk: int = 10, slack: int = 5) -> JitterBuffer:
    buffer = JitterBuffer(chunk, slack)
    for start in range(0, samples, chunk):
        buffer.put(ramp(start, min(chunk, samples - start)))
    return buffer


def test_an_inbox_keeps_the_order_and_counts_what_it_loses() -> None:
    inbox = Inbox()
    for k in range(300):
        inbox.offer(np.full((1, 4), k, np.float32))
    assert inbox.overruns == 300 - 256
    taken = []
    for block in inbox:
        if block is None:
            inbox.close()
        else:
            taken.append(int(block[0, 0]))
    assert taken == list(range(256))


def test_whoever_can_wait_loses_nothing_and_ends() -> None:
    inbox = Inbox()

    def produce() -> None:
        for k in range(1000):
            assert inbox.put(np.full((1, 1), k, np.float32))
        inbox.put(None)

    producer = threading.Thread(target=produce)
    producer.start()
    assert [int(block[0, 0]) for block in inbox if block is not None] == list(range(1000))
    producer.join()
    inbox.close()
    assert not inbox.put(None)


@given(
    chunk=st.integers(1, 40),
    blocks=st.lists(st.integers(1, 50), min_size=1, max_size=5),
    late=st.lists(st.integers(0, 12), min_size=5, max_size=5),
    slack=st.integers(12, 30),
)
def test_chunks_that_are_late_by_less_than_the_slack_do_no_harm(
    chunk: int, blocks: list[int], late: list[int], slack: int
) -> None:
    """Both run by one clock, in samples; chunk k is due at (k + 1) * chunk, block after block is taken when due."""
    buffer = JitterBuffer(chunk, slack)
    buffer.take(max(blocks))  # the longest of them is known
    played, put, now = [], 0, 0
    for turn in range(200):
        while (put + 1) * chunk + late[put % 5] <= now:
            buffer.put(ramp(put * chunk, chunk))
            put += 1
        played.append(buffer.take(blocks[turn % len(blocks)]))
        now += len(played[-1])
    heard = np.concatenate(played)
    begun = int(np.flatnonzero(heard)[0])
    assert buffer.underruns == buffer.overruns == 0
    assert np.array_equal(heard[begun:], ramp(int(heard[begun]) - 1, len(heard) - begun))
    assert begun - (heard[begun] - 1) <= buffer.delay + 2 * chunk + max(late)  # a chunk comes when it is whole


def test_an_underrun_is_silence_and_the_order_stays() -> None:
    buffer = filled(30)
    first = buffer.take(10)
    assert np.array_equal(first, ramp(5, 10))  # 25 are enough, older ones would only make it late
    assert np.array_equal(np.trim_zeros(np.concatenate([buffer.take(10), buffer.take(10)])), ramp(15, 15))
    assert not buffer.take(10).any() and buffer.underruns == 1
    for start in (30, 40, 50):
        buffer.put(ramp(start, 10))
    assert np.array_equal(buffer.take(10), ramp(35, 10))
    assert buffer.underruns == 1


def test_what_piles_up_is_trimmed_from_the_oldest() -> None:
    buffer = filled(30)
    buffer.take(10)
    for start in range(30, 100, 10):
        buffer.put(ramp(start, 10))
    assert np.array_equal(buffer.take(10), ramp(75, 10)) and buffer.overruns == 1
    assert np.array_equal(buffer.take(10), ramp(85, 10)) and buffer.overruns == 1


def test_a_producer_that_can_wait_is_held_back() -> None:
    buffer = JitterBuffer(10, 5, wait=True)
    taken: list[np.ndarray] = []
    producer = threading.Thread(target=lambda: [buffer.put(ramp(10 * k, 10)) for k in range(50)])
    producer.start()
    while producer.is_alive():
        taken.append(buffer.take(7))
    producer.join()
    buffer.drain(0)
    taken += [buffer.take(100)]
    heard = np.concatenate(taken)
    assert np.array_equal(heard[heard > 0], ramp(0, 500)) and buffer.overruns == 0


def test_the_end_is_played_however_little_is_left() -> None:
    buffer = filled(12)
    assert not buffer.take(10).any()
    drained = threading.Thread(target=buffer.drain, args=(10,))
    drained.start()
    while not (played := buffer.take(8)).any():
        pass
    rest = buffer.take(8)
    drained.join()
    assert np.array_equal(np.concatenate([played, rest])[:12], ramp(0, 12))
    assert buffer.underruns == 0
