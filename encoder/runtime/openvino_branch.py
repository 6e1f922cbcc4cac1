"""A converted branch, compiled by OpenVINO and fed with films from many threads at once."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from encoder.films.study import Film, Normalized

Pooled = npt.NDArray[np.float32]
"""(M, F): what a backbone pools M films to."""
Put = Callable[[Any, Normalized], None]
"""Makes a film the network's input, in the place (C, S, S) that is given."""
Made = TypeVar("Made")
_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "bf16"}  # what the layers that are not int8 run in
_CHUNK = 4
"""Films a request: OpenVINO is fastest where a shape is fixed and the maps of a few films fit a core's cache."""
_first_run = threading.Lock()
"""OpenVINO's Python side sets itself up in its first calls: two threads there at once wait for each other for ever."""


def apart(make: Callable[[], Made]) -> Made:
    """Run `make`, which compiles with OpenVINO, in a thread of its own and return its result.

    On processors with AMX it gives the thread that compiles another stack for signals and frees that stack with the
    model: the next signal that Python handles in that thread would end the process.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="compile") as thread:
        return thread.submit(make).result()


class CompiledBranch:
    """A branch's model, compiled for chunks of films and for one film. Safe under threads."""

    def __init__(self, model: Any, precision: str) -> None:
        self._requests = {size: _Requests(model, precision, size) for size in (_CHUNK, 1)}

    def start(self, films: Sequence[Film | Normalized], put: Put | None = None) -> "Running":
        """Start inference of films in chunks; the rest goes film by film.

        Args:
            films: (S, S) each where `put` normalises them, else (C, S, S) normalised.
        """
        whole = len(films) - len(films) % _CHUNK
        bounds = [(row, _CHUNK) for row in range(0, whole, _CHUNK)] + [(row, 1) for row in range(whole, len(films))]
        return Running(
            [(self._requests[size], self._requests[size].start(films[row : row + size], put)) for row, size in bounds]
        )


@dataclass(frozen=True)
class Running:
    """Inference that has been started, a request for each chunk of films."""

    chunks: Sequence[tuple["_Requests", Any]]

    def result(self) -> Pooled:
        """Wait for the films and return their pooled values (M, F)."""
        return np.concatenate([owner.finish(request) for owner, request in self.chunks])


class _Requests:
    """A model compiled for one number of films, and its idle requests; one thread at a time uses a request."""

    def __init__(self, model: Any, precision: str, size: int) -> None:
        fixed = model.clone()
        fixed.reshape([size, *list(model.input(0).partial_shape)[1:]])
        self._compiled = apart(lambda: _compiled(fixed, precision))
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        with _first_run:
            self.finish(self.start([np.zeros(list(fixed.input(0).shape)[1:], np.float32)] * size, None))

    def start(self, films: Sequence[Film | Normalized], put: Put | None) -> Any:
        """Put films into an idle request, start it and return it."""
        try:
            request = self._idle.get_nowait()
        except queue.Empty:
            request = self._compiled.create_infer_request()
        for film, place in zip(films, request.get_input_tensor().data, strict=True):
            (put or _copy)(film, place)
        request.start_async()
        return request

    def finish(self, request: Any) -> Pooled:
        """Wait for a request, return its pooled values and let the next chunk have it."""
        request.wait()
        values = np.array(request.get_output_tensor().data, dtype=np.float32)
        self._idle.put(request)
        return values


def _copy(film: Film | Normalized, place: Normalized) -> None:
    place[...] = film


def _compiled(model: Any, precision: str) -> Any:
    from openvino import Core

    hints = {
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        "PERFORMANCE_HINT": "THROUGHPUT",
        "ENABLE_CPU_PINNING": False,  # pinned, two branches with a film each may both be on the first core
    }
    return Core().compile_model(model, "CPU", hints)
