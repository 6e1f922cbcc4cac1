"""The runtimes for a GPU, on a CPU: the same class, without streams and graphs."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from encoder.embedder import Embedder
from encoder.errors import EncoderError
from encoder.films.preprocess import Preprocessing
from encoder.films.study import Film, StudyFilms, stack_films
from encoder.network.model import StudyEncoder
from encoder.runtime.fixed_batches import FixedBatchEncoder, fixed_sizes
from encoder.runtime.runtimes import Runtime, choose_runtime, on_gpu


@pytest.fixture
def films() -> list[Film]:
    return list(np.random.default_rng(3).integers(0, 256, (9, 64, 64), dtype=np.uint8))


ROWS = (torch.tensor([0, 2, 4, 8, 1]), torch.tensor([1, 3, 4, 7, 0]))
CODES = torch.tensor([1, 3, 2, 3, 0, 1, 2, 3, 1])


def prepare(films: torch.Tensor) -> torch.Tensor:
    return (films.float() / 255 - 0.5).expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last) / 0.25


def embedded(runner: FixedBatchEncoder, films: list[Film]) -> torch.Tensor:
    with torch.inference_mode():
        return runner.fuse_pooled(*runner.pool_films_of(films, *ROWS, CODES))


@torch.inference_mode()
def expected(encoder: StudyEncoder, films: list[Film]) -> torch.Tensor:
    return encoder.forward_rows(prepare(torch.from_numpy(stack_films(films))), *ROWS, CODES)


@pytest.mark.parametrize("sizes", [(1, 4), (1, 4, 16), (1,)])
def test_in_single_precision_every_size_of_batch_gives_the_vectors_of_torch(
    encoder: StudyEncoder, films: list[Film], sizes: tuple[int, ...]
) -> None:
    runner = FixedBatchEncoder(encoder, prepare, sizes)

    found = embedded(runner, films)

    torch.testing.assert_close(found, expected(encoder, films), rtol=0, atol=1e-5)


def test_in_half_precision_the_vectors_are_near(encoder: StudyEncoder, films: list[Film]) -> None:
    runner = FixedBatchEncoder(encoder, prepare, (1, 4, 16), half=True)

    cosines = (embedded(runner, films) * expected(encoder, films)).sum(dim=1)

    assert float(cosines.min()) >= 0.999


def test_a_batch_leaves_nothing_behind_for_the_next_one(encoder: StudyEncoder, films: list[Film]) -> None:
    runner = FixedBatchEncoder(encoder, prepare, (1, 16))
    inputs = prepare(torch.from_numpy(stack_films(films)))

    whole = runner.pool_films(inputs, 0)
    part = runner.pool_films(inputs[3:5], 0)

    torch.testing.assert_close(part, whole[3:5], rtol=0, atol=1e-6)
    assert set(runner._recorded[0]) == {16}


def test_threads_share_a_runner(encoder: StudyEncoder, films: list[Film]) -> None:
    runner = FixedBatchEncoder(encoder, prepare, (1, 4))
    turned = [films[number:] + films[:number] for number in range(9)]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda some: embedded(runner, some), turned))

    for some, vectors in zip(turned, found, strict=True):
        torch.testing.assert_close(vectors, expected(encoder, some), rtol=0, atol=1e-5)


def test_a_compiled_network_gives_the_same_vectors(
    encoder: StudyEncoder, films: list[Film], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiler's own code takes a minute and a C++ compiler: here it is what torch traces that runs."""
    monkeypatch.setattr("encoder.runtime.fixed_batches._COMPILER", "eager")
    runner = FixedBatchEncoder(encoder, prepare, (1, 4), compiled=True)

    torch.testing.assert_close(embedded(runner, films), expected(encoder, films), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("runtime", "least"), [("cuda-fp32", 0.99999), ("cuda-bf16", 0.999)])
def test_an_embedder_gives_the_vectors_of_torch(encoder: StudyEncoder, runtime: str, least: float) -> None:
    """On a CPU, which cannot be chosen, the runner is put in by hand."""
    plain, quick = (Embedder(encoder, Preprocessing(size=64), device="cpu") for _ in range(2))
    quick.runner = on_gpu(encoder, Runtime(runtime), quick.preprocessing)
    studies = noise_studies(19)

    cosines = (plain.embed(studies) * quick.embed(studies)).sum(axis=1)

    assert float(cosines.min()) >= least
    assert (plain.batch, quick.batch) == (16, 256)


def noise_studies(count: int) -> list[StudyFilms]:
    films = np.random.default_rng(1).integers(0, 256, (count, 2, 64, 64), dtype=np.uint8)
    return [StudyFilms(pair[0], None if number % 3 == 0 else pair[1], "PA") for number, pair in enumerate(films)]


def test_a_runtime_for_gpus_is_refused_on_a_processor_and_chosen_by_name_alone(tiny_encoder: StudyEncoder) -> None:
    with pytest.raises(EncoderError, match="expected a CUDA device for runtime 'cuda-bf16', got 'cpu'"):
        Embedder(tiny_encoder, Preprocessing(size=64), device="cpu", runtime="cuda-bf16")
    assert [choose_runtime(name, "cuda").name for name in ("auto", "cuda-compiled")] == ["torch", "cuda-compiled"]


def test_sizes_of_batches_follow_the_memory_and_the_side_of_a_film() -> None:
    assert fixed_sizes(80 << 30, 224) == (1, 4, 16, 64, 256)
    assert fixed_sizes(8 << 30, 512) == (1, 4, 16)
    assert fixed_sizes(8 << 30, 224, compiled=True) == (1, 64)
    assert fixed_sizes(0, 1024) == (1,)
