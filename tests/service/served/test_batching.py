"""Films of many callers: each gets its own vector or its own error, in batches, within bounds."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import pytest

from encoder.embedder import Embedder
from encoder.errors import ImageError
from encoder.films.preprocess import Preprocessing
from encoder.films.study import StudyFilms
from service.errors import Busy, ClientGone, NotReady
from service.served.batching import BATCH, CHUNK, BatchingEmbedder
from service.served.concurrency import ConcurrencyLimit


class SlowEmbedder:
    """Reads a number and embeds it as itself, while it is let; the batches are kept."""

    fingerprint, embedding_dim = "f" * 64, 1

    def __init__(self) -> None:
        self.door, self.reading = threading.Event(), threading.Event()
        self.door.set()
        self.reading.set()
        self.batches: list[list[float]] = []
        self.begun = threading.Semaphore(0)

    def read_films(self, frontal: bytes | None, lateral: bytes | None) -> float:
        """Return the number. Raises ImageError where it is none."""
        assert self.reading.wait(10)
        if frontal == b"torn":
            raise ImageError("'frontal': torn")
        return float(frontal or 0)

    def embed(self, studies: Sequence[float]) -> npt.NDArray[np.float32]:
        """Return (B, 1), unless one is negative or 1000."""
        self.batches.append(list(studies))
        self.begun.release()
        assert self.door.wait(10)
        if min(studies) < 0:
            raise ValueError("expected no negative number")
        if 1000 in studies:
            raise KeyError("nobody foresaw this")
        return np.array(studies, np.float32)[:, None]


@contextmanager
def closed(door: threading.Event) -> Iterator[None]:
    """Keep a door shut, and open it whatever happens."""
    door.clear()
    try:
        yield
    finally:
        door.set()


@pytest.fixture
def slow() -> SlowEmbedder:
    return SlowEmbedder()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(40) as threads:
        yield threads


def ask(pool: ThreadPoolExecutor, batches: BatchingEmbedder[float], number: float | str) -> "Future[npt.NDArray]":
    return pool.submit(batches.embed_study, str(number).encode(), None)


def fill_lanes(slow: SlowEmbedder, pool: ThreadPoolExecutor, batches: BatchingEmbedder[float]) -> None:
    """Have both lanes wait at the closed door, each with one study."""
    for _ in range(2):
        ask(pool, batches, 0)
        assert slow.begun.acquire(timeout=10)


def come(batches: BatchingEmbedder[float], count: int) -> None:
    """Wait until so many studies wait."""
    for _ in range(1000):
        if len(batches._waiting) == count:
            return
        threading.Event().wait(0.01)
    raise AssertionError(f"expected {count} to wait, got {len(batches._waiting)}")


def test_what_gathers_while_the_encoder_works_is_embedded_together(
    slow: SlowEmbedder, pool: ThreadPoolExecutor
) -> None:
    batches = BatchingEmbedder(slow, places=40)
    with closed(slow.door):
        fill_lanes(slow, pool, batches)
        asked = [ask(pool, batches, number) for number in range(1, 21)]
        come(batches, 20)

    assert [float(one.result(10)[0]) for one in asked] == list(range(1, 21))
    assert sorted(map(len, slow.batches)) == [1, 1, 20 - BATCH, BATCH]


def test_a_lone_study_waits_for_nobody_and_a_broken_one_keeps_nobody_waiting(
    slow: SlowEmbedder, pool: ThreadPoolExecutor
) -> None:
    batches = BatchingEmbedder(slow, places=40)
    assert batches.embed_study(b"5", None) == 5
    with closed(slow.reading):
        asked = [ask(pool, batches, number) for number in (1, 2, "torn", 3)]

    assert [float(asked[place].result(10)[0]) for place in (0, 1, 3)] == [1, 2, 3]
    with pytest.raises(ImageError, match="torn"):
        asked[2].result(10)


def test_fewer_than_a_chunk_wait_for_what_is_being_read(slow: SlowEmbedder, pool: ThreadPoolExecutor) -> None:
    batches = BatchingEmbedder(slow, places=40)
    batches._coming = 1  # one more is being read
    asked = [ask(pool, batches, number) for number in range(CHUNK - 1)]
    assert wait(asked, timeout=0.1).done == set()

    asked.append(ask(pool, batches, CHUNK - 1))
    assert not wait(asked, timeout=10).not_done
    assert list(map(len, slow.batches)) == [CHUNK]


@pytest.mark.parametrize(("number", "error"), [(-1, ValueError), (1000, NotReady)])
def test_a_study_that_cannot_be_embedded_leaves_nobody_without_an_answer(
    slow: SlowEmbedder, pool: ThreadPoolExecutor, number: int, error: type[Exception]
) -> None:
    batches = BatchingEmbedder(slow, places=40)
    with closed(slow.door):
        fill_lanes(slow, pool, batches)
        asked = [ask(pool, batches, one) for one in (1, 2, number)]
        come(batches, 3)

    with pytest.raises(error):
        asked[2].result(10)
    assert not wait(asked, timeout=10).not_done
    if error is ValueError:
        assert [float(one.result()[0]) for one in asked[:2]] == [1, 2]
    assert batches.embed_study(b"7", None) == 7


def test_one_study_too_many_is_turned_away_before_it_is_read(slow: SlowEmbedder, pool: ThreadPoolExecutor) -> None:
    batches = BatchingEmbedder(slow, places=2)
    with closed(slow.door):
        fill_lanes(slow, pool, batches)
        with pytest.raises(Busy, match="at most 2 studies"):
            batches.embed_study(b"torn", None)
        assert not batches._waiting


@pytest.mark.parametrize("left_before", ["reading", "embedding"])
def test_a_caller_who_has_left_is_neither_read_nor_embedded(
    slow: SlowEmbedder, pool: ThreadPoolExecutor, left_before: str
) -> None:
    gone = threading.Event()
    checks: list[Callable[[], bool]] = [lambda: False, lambda: False, gone.is_set]
    batches = BatchingEmbedder(slow, places=40, disconnect_check=lambda: checks.pop(0))
    with closed(slow.door):
        fill_lanes(slow, pool, batches)
        if left_before == "reading":
            gone.set()
        asked = ask(pool, batches, "torn" if left_before == "reading" else 3)
        if left_before == "embedding":
            come(batches, 1)
            gone.set()

    with pytest.raises(ClientGone):
        asked.result(10)
    assert [3.0] not in slow.batches


def test_a_vector_does_not_depend_on_the_studies_embedded_with_it(
    tiny_embedder: Embedder, rng: np.random.Generator, pool: ThreadPoolExecutor
) -> None:
    preprocessing: Preprocessing = tiny_embedder.preprocessing
    films = [preprocessing(rng.integers(0, 256, (80, 70), np.uint8)) for _ in range(12)]
    studies = [StudyFilms(film, None) for film in films]

    class Read:
        fingerprint, embedding_dim, embed = "", 256, staticmethod(tiny_embedder.embed)

        def read_films(self, frontal: bytes | None, lateral: bytes | None) -> StudyFilms:
            return studies[int(frontal or 0)]

    batches = BatchingEmbedder(Read(), places=40)
    together = [ask(pool, batches, number) for number in range(12)]
    for study, vector in zip(studies, together, strict=True):
        assert tiny_embedder.embed([study])[0] @ vector.result(60) == pytest.approx(1, abs=1e-4)


def test_a_limit_lets_some_in_has_some_wait_and_turns_away_the_rest(pool: ThreadPoolExecutor) -> None:
    limit, inside, leave = ConcurrencyLimit("maps", at_once=1, waiting=1), threading.Event(), threading.Event()

    def work() -> None:
        with limit:
            inside.set()
            assert leave.wait(10)

    first = pool.submit(work)
    assert inside.wait(10)
    second = pool.submit(work)
    while limit._places.acquire(blocking=False):  # until the second is there
        limit._places.release()
    with pytest.raises(Busy, match="at most 2 maps"), limit:
        pass
    leave.set()
    assert not wait([first, second], timeout=10).not_done
    with limit:
        assert True
