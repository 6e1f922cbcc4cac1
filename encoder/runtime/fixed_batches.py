"""Backbones on a GPU: films are copied while others are worked on, the work is recorded once a size of batch."""

import copy
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from encoder.films.study import Film, stack_films
from encoder.network.model import StudyEncoder

_SIZES = (1, 4, 16, 64, 256)
"""Films that are worked on at once. A batch is cut into the largest, and what is left is filled up to the next."""
_COMPILED_SIZES = (1, 64, 256)
"""The same where each takes half a minute to compile."""
_BYTES_A_PIXEL = 1000
"""Of a film while a network works on it: an EfficientNet-B0 takes 260 in single precision, larger ones more."""
_SHARE = 0.5
"""Of a device's free memory that films may take while they are worked on."""
_WARM_UP = 3
"""Runs before a recording, in which libraries choose their kernels."""
_COMPILER = "inductor"


def fixed_sizes(free: int, side: int, *, compiled: bool = False) -> tuple[int, ...]:
    """Return how many films are worked on at once on a device with so many bytes free: ascending, from 1 on.

    Args:
        side: of the network's square, in pixels.
    """
    sizes = _COMPILED_SIZES if compiled else _SIZES
    return tuple(size for size in sizes if size == 1 or size * side**2 * _BYTES_A_PIXEL <= _SHARE * free)


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; a GPU takes it by itself while this process goes on."""
    pinned = tensor.pin_memory() if device.type == "cuda" and tensor.device.type == "cpu" else tensor
    return pinned.to(device, non_blocking=True)


class FixedBatchEncoder(StudyEncoder):
    """An encoder whose backbones run at a few sizes of batch; the layers above are the given encoder's own, not copied.

    On a CUDA device films go through pinned memory in a stream of their own, and a backbone's work is recorded as a
    CUDA graph at the first batch of each size; one that cannot be recorded runs step by step. On a CPU there are no
    streams and no graphs, and all else is the same. Safe under threads.
    """

    def __init__(
        self,
        encoder: StudyEncoder,
        prepare: Callable[[Tensor], Tensor],
        sizes: Sequence[int],
        *,
        half: bool = False,
        compiled: bool = False,
    ) -> None:
        """Take an encoder on its device.

        Args:
            prepare: makes films, stacked as they come, the network's input (M, C, S, S), on the device.
            sizes: as `fixed_sizes` gives them.
            half: compute the backbones in bf16. compiled: as torch.compile makes them.
        """
        super().__init__()
        self.config, self.backbones = encoder.config, encoder.backbones
        self.num_features, self.embedding_dim = encoder.num_features, encoder.embedding_dim
        self._encoder = [encoder]  # in a list, so that it is no child whose weights would count twice
        self._device, self._prepare, self._sizes = next(encoder.parameters()).device, prepare, tuple(sizes)
        ours = copy.deepcopy(encoder).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        branches = [_Branch(ours, branch, half) for branch in range(len(encoder.backbones))]
        networks = [
            torch.compile(branch, dynamic=False, backend=_COMPILER) if compiled else branch for branch in branches
        ]
        self._recorded: list[dict[int, _Recorded]] = [{} for _ in networks]
        self._networks = [networks]  # as above
        self._one_at_a_time = threading.Lock()
        self._copies = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None

    @property
    def most(self) -> int:
        """Films that are worked on at once, at most."""
        return self._sizes[-1]

    @torch.inference_mode()
    def pool_films(self, films: Tensor, branch: int) -> Tensor:
        """Return what a branch's backbone pools films (M, C, S, S) on the device to, (M, F) float32."""
        parts = films.split(self.most)
        return torch.cat([self._run(part, branch) for part in parts])

    @torch.inference_mode()
    def pool_films_of(
        self, films: Sequence[Film], frontal_rows: Tensor, lateral_rows: Tensor, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return what both views of films on the CPU are pooled to, (B, F) each; with one backbone, each film once."""
        if len(self.backbones) == 1:
            finished = self._encoder[0].finish_pooled(self._sent_and_pooled(films, 0), positions)
            return finished[moved(frontal_rows, self._device)], finished[moved(lateral_rows, self._device)]
        frontal, lateral = ([films[row] for row in rows.tolist()] for rows in (frontal_rows, lateral_rows))
        return self._sent_and_pooled(frontal, 0), self._sent_and_pooled(lateral, 1)

    def fuse_pooled(self, frontal: Tensor, lateral: Tensor) -> Tensor:
        """Return the embeddings (B, D) of two pooled views, (B, F) each."""
        return self._encoder[0].fuse_pooled(frontal, lateral)

    def finish_pooled(self, pooled: Tensor, positions: Tensor | None) -> Tensor:
        """Return pooled films (M, F) with the encoder's further inputs appended."""
        return self._encoder[0].finish_pooled(pooled, positions)

    def _sent_and_pooled(self, films: Sequence[Film], branch: int) -> Tensor:
        """Return the pooled films (M, F); while a part is worked on, the next one is stacked and copied."""
        parts = [films[start : start + self.most] for start in range(0, len(films), self.most)]
        return torch.cat([self._run(self._prepare(self._sent(part)), branch) for part in parts])

    def _sent(self, films: Sequence[Film]) -> Tensor:
        """Return films on the device, for what its current stream does next."""
        stack = torch.from_numpy(stack_films(films))
        if self._copies is None:
            return stack
        with torch.cuda.stream(self._copies):
            sent = moved(stack, self._device)
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._copies)
        sent.record_stream(current)  # or its memory would be free for the next copy
        return sent

    def _run(self, films: Tensor, branch: int) -> Tensor:
        """Return the pooled films (m, F), at most as many as the largest size."""
        size = next(size for size in self._sizes if size >= len(films))
        with self._one_at_a_time:
            if size not in self._recorded[branch]:
                place = films.new_zeros((size, *films.shape[1:])).contiguous(memory_format=torch.channels_last)
                self._recorded[branch][size] = _record(self._networks[0][branch], place)
            recorded = self._recorded[branch][size]
            recorded.films[: len(films)].copy_(films)  # what is left of an older batch changes no film's vector
            return recorded.run()[: len(films)].clone()


class _Branch(nn.Module):
    """One branch of an encoder: films (M, C, S, S) in, pooled values (M, F) float32 out."""

    def __init__(self, encoder: StudyEncoder, branch: int, half: bool) -> None:
        super().__init__()
        self.encoder, self.branch, self.half_precision = encoder, branch, half

    def forward(self, films: Tensor) -> Tensor:
        with torch.autocast(films.device.type, torch.bfloat16, self.half_precision, cache_enabled=False):
            return self.encoder.pool_films(films, self.branch).float()


@dataclass(frozen=True)
class _Recorded:
    """Where a batch of one size is put, and what then gives its pooled values."""

    films: Tensor
    run: Callable[[], Tensor]


def _record(network: Callable[[Tensor], Tensor], films: Tensor) -> _Recorded:
    """Return a network's work on the films that lie in a place, recorded where the device can do that."""
    plain = _Recorded(films, lambda: network(films))
    if films.device.type != "cuda":
        return plain
    aside = torch.cuda.Stream(films.device)
    aside.wait_stream(torch.cuda.current_stream(films.device))
    with torch.cuda.stream(aside):
        for _ in range(_WARM_UP):
            network(films)
    torch.cuda.current_stream(films.device).wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            pooled = network(films)
    except RuntimeError:  # a step that waits for the processor
        return plain

    def replay() -> Tensor:
        graph.replay()
        return pooled

    return _Recorded(films, replay)
