"""The gate that every vector passes, and the health of a set of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from index.errors import VectorsError
from index.vectors import as_embeddings, space_health


@given(
    hnp.arrays(np.float64, (5, 8), elements=st.floats(-3, 3)).filter(lambda a: np.linalg.norm(a, axis=1).min() > 0.1)
)
def test_whatever_passes_the_gate_has_unit_norm_and_is_float32(values: np.ndarray) -> None:
    checked = as_embeddings(values / np.linalg.norm(values, axis=1, keepdims=True), 8)
    assert checked.dtype == np.float32
    assert np.allclose(np.linalg.norm(checked, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (np.full((3, 4), 0.5)[:, :3], "unit norm"),
        (np.array([[np.nan, 1.0]]), "finite"),
        (np.eye(3), r"shape \(N, 2\), got \(3, 3\)"),
        (np.zeros((1, 1, 2)), "shape"),
        ("words", "array of numbers"),
    ],
)
def test_a_wrong_array_is_refused_by_what_is_wrong(values: object, sentence: str) -> None:
    dim = 2 if sentence.startswith("shape") else None
    with pytest.raises(VectorsError, match=sentence):
        as_embeddings(values, dim)


def test_equal_vectors_are_a_collapsed_space(rng: np.random.Generator) -> None:
    values = np.tile([[1.0, 0, 0]], (50, 1)) + rng.normal(scale=1e-4, size=(50, 3))
    health = space_health(as_embeddings(values / np.linalg.norm(values, axis=1, keepdims=True)))
    assert health.collapsed
    assert "COLLAPSED" in health.sentence()


def test_scattered_vectors_use_all_directions(unit_vectors: np.ndarray) -> None:
    health = space_health(unit_vectors)
    pairs = (unit_vectors @ unit_vectors.T)[~np.eye(len(unit_vectors), dtype=bool)]
    assert health.mean_cosine == pytest.approx(pairs.mean(), abs=1e-5)
    assert 14 < health.effective_rank <= 16
    assert not health.collapsed


def test_one_vector_has_no_health_to_speak_of() -> None:
    assert not space_health(as_embeddings([[1.0, 0.0]])).collapsed
