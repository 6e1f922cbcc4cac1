"""The bench of the service: its made index and films, and a real run whose figures fit together."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from encoder.films.image import read_image
from encoder.films.preprocess import Preprocessing
from encoder.network.checkpoint import save_encoder
from encoder.network.model import DualEfficientNetEncoder
from scripts.benches.clients import Load, film_request, vector_request
from scripts.benches.drawn import Drawn
from scripts.benches.serve import build_index, by_clients, command, write_films
from scripts.verbs.running.serve import THREADS, limits_for


@pytest.mark.slow  # a server in a process of its own
def test_a_run_compares_the_server_with_the_bare_calls_and_the_export(
    tiny_encoder: DualEfficientNetEncoder, tmp_path: Path
) -> None:
    encoder = tmp_path / "encoder.safetensors"
    save_encoder(encoder, tiny_encoder, Preprocessing(size=64))
    words = ["--rows", "300", "--encoder", str(encoder), "--vectors", "40", "--films", "40", "--repeat", "1", "--json"]
    result = CliRunner().invoke(command, words, catch_exceptions=False)

    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    subjects = figures["subjects"]
    assert set(subjects) == {"vector, direct", "film, direct", "film, precedent export"} | {
        by_clients(what, clients) for what in ("vector", "film") for clients in (1, 8, 32)
    }
    for one in subjects.values():
        assert one["queries_per_second"] > 0
        assert one["busy"] == 0
        assert "ms" not in one or 0 < one["ms"]["p50"] <= one["ms"]["p95"] <= one["ms"]["p99"]
    share = (
        subjects[by_clients("film", 32)]["queries_per_second"]
        / subjects["film, precedent export"]["queries_per_second"]
    )
    assert figures["share_of_export"] == pytest.approx(share)
    assert figures["server_memory_bytes"] > figures["server_own_bytes"] > 0


def test_the_made_index_holds_the_drawn_rows_and_two_studies_a_patient(tmp_path: Path) -> None:
    drawn = Drawn(150, 16)
    retriever = build_index(drawn, "f" * 64, "flat", tmp_path)

    assert (len(retriever), retriever.embedding_dim, retriever.fingerprint) == (150, 16, "f" * 64)
    np.testing.assert_allclose(retriever.embedding("patient000001/study2"), next(drawn.blocks())[3], atol=1e-6)
    assert {hit.study.patient_id for hit in retriever.similar("patient000001/study2", 149).hits}.isdisjoint(
        {"patient000001"}
    )


@pytest.mark.parametrize("kind", ["small", "dicom"])
def test_the_made_films_can_be_read_and_differ(tmp_path: Path, kind: str) -> None:
    first, second = (read_image(path) for path in write_films(tmp_path / "films", kind)[:2])

    assert np.abs(first - second).mean() > 0.05


def test_requests_carry_the_query_and_a_rate_counts_answers() -> None:
    assert json.loads(vector_request([1.0, 0.0], 3).body) == {"embedding": [1.0, 0.0], "k": 3}
    film = film_request(b"pixels", 3)
    assert film.body.count(film.content_type.rpartition("=")[2].encode()) == 3
    assert b"\r\n\r\npixels\r\n" in film.body
    assert Load([0.1, 0.1], 0.5, 2).rate == 4


@pytest.mark.parametrize("threads", [3, 4, 9, THREADS, 256])
def test_uploads_maps_and_pictures_never_take_every_thread(threads: int) -> None:
    limits = limits_for(threads)

    taken = limits.studies + limits.readings + limits.readings_waiting
    assert taken < threads
    assert threads < 4 or taken + limits.pictures < threads
    assert threads < THREADS or limits.studies >= 32
