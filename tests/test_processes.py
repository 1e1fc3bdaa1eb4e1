"""Processes of ranks: answers, failures, deaths and silence."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec
import pytest

from calibration.processes import MachineError, Ranks

PATIENCE_S = 300
"""For an answer that comes at once unless the machine is busy."""


class Job(msgspec.Struct):
    do: str = "answer"


class Answer(msgspec.Struct):
    rank: int
    text: str = ""


def serve(rank: int, world_size: int, store: str, greeting: str, pipe: Connection) -> None:
    if greeting == "nothing":
        return
    pipe.send_bytes(msgspec.msgpack.encode(Answer(rank, greeting)))
    while True:
        try:
            job = msgspec.msgpack.decode(pipe.recv_bytes(), type=Job)
        except EOFError:
            break
        if job.do == "die":
            os._exit(1)
        if job.do == "hang":
            threading.Event().wait()
        pipe.send_bytes(msgspec.msgpack.encode(Answer(rank, store if job.do == "store" else job.do)))


def failure(answer: Answer) -> Exception | None:
    return ArithmeticError(f"rank {answer.rank} failed") if answer.text == "fail" else None


@pytest.fixture
def ranks() -> Iterator[Ranks[Answer]]:
    made = Ranks(2, serve, ("hello",), Answer, failure)
    yield made
    made.close(0)


def test_the_first_ranks_answer_in_order_and_share_a_file(ranks: Ranks[Answer]) -> None:
    assert ranks.first.text == "hello"
    assert ranks.ask([Job(), Job("x")], PATIENCE_S) == [Answer(0, "answer"), Answer(1, "x")]
    assert ranks.ask([Job("y")], PATIENCE_S) == [Answer(0, "y")]
    stores = {answer.text for answer in ranks.ask([Job("store")] * 2, PATIENCE_S)}
    assert len(stores) == 1
    folder = Path(stores.pop()).parent
    assert folder.is_dir()
    ranks.close()
    assert not folder.exists()


@pytest.mark.parametrize(
    ("do", "error", "words"),
    [
        ("die", MachineError, "the process of rank 1 has died"),
        ("fail", ArithmeticError, "rank 1 failed"),
        # where the machine is busy, not even rank 0 answers in time
        ("hang", MachineError, r"ranks \[(0, )?1\] have not answered within 0.5 s"),
    ],
)
def test_a_rank_that_fails_is_named(do: str, error: type[Exception], words: str, ranks: Ranks[Answer]) -> None:
    with pytest.raises(error, match=words):
        ranks.ask([Job(), Job(do)], 0.5 if do == "hang" else PATIENCE_S)
    if do == "die":
        with pytest.raises(MachineError, match="rank 1 has died"):
            ranks.ask([Job(), Job()], PATIENCE_S)
    ranks.close(0)  # ends also the one that hangs


@pytest.mark.parametrize(("greeting", "words"), [("nothing", "has died"), ("fail", "failed")])
def test_ranks_that_do_not_start(greeting: str, words: str) -> None:
    with pytest.raises((MachineError, ArithmeticError), match=words):
        Ranks(2, serve, (greeting,), Answer, failure)
