"""What similarities are worth in a collection, against pairs that are known."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from export_files import save_export
from living_world import addition, unit
from service_world import with_tokens

from index.built.collection import build_collection, load_collection
from index.built.pairs import PairShares
from index.built.vector_index import VectorIndex
from index.errors import ArtefactError
from index.living.collection import LivingCollection
from index.search.retriever import Retriever
from index.search.texts import Texts
from index.storage.files import seal_of
from index.table.studies import FINDINGS, studies_schema
from index.vectors import Embeddings
from scripts.cli import precedent
from service.guard.tokens import create_token
from service.loader import load
from service.served.mounts import parse_mounts

STUDY = "p0/s0"


def groups(rng: np.random.Generator, count: int, spread: float = 0.2) -> tuple[pa.Table, Embeddings]:
    """Return studies of two findings, two a patient, and vectors about one of two directions that a finding decides.

    Two of five have the second finding, p0's first study among them.
    """
    kinds = (np.arange(count) % 5 < 2).astype(int)
    vectors = np.eye(8, dtype=np.float32)[kinds] + spread * rng.normal(size=(count, 8)).astype(np.float32)
    rows = [
        dict.fromkeys(studies_schema().names)
        | {"study_id": f"p{row // 2}/s{row}", "patient_id": f"p{row // 2}", "other_paths": []}
        | {"frontal_path": f"{row}.png"}
        | {name: int(name == ("Edema", "Fracture")[kind]) for name in FINDINGS}
        for row, kind in enumerate(kinds)
    ]
    return pa.Table.from_pylist(rows, studies_schema()), vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an index of such studies."""
    root = tmp_path_factory.mktemp("pairs")
    build_collection(save_export(root / "export", *groups(np.random.default_rng(0), 240)), root / "index")
    return root / "index"


def test_vectors_that_tell_findings_are_worth_more_the_more_similar(rng: np.random.Generator) -> None:
    studies, vectors = groups(rng, 600)

    measured = PairShares.measured(VectorIndex.build(vectors), studies)

    assert measured is not None
    lowest, highest = measured.steps[0], measured.steps[-1]
    assert highest.share.value > 0.95 > 0.3 > lowest.share.value
    assert measured.chance == pytest.approx(0.5, abs=0.05)
    assert (measured.at(highest.least), measured.at(-1.01)) == (highest, None)
    assert (least := measured.above_chance_from) is not None
    assert lowest.least < least < highest.least
    assert f"below {least:.2f} that is not shown to be more" in measured.sentence
    assert measured == PairShares.measured(VectorIndex.build(vectors), studies)


def test_vectors_without_meaning_are_worth_what_any_two_are(rng: np.random.Generator) -> None:
    studies, vectors = groups(rng, 600)

    measured = PairShares.measured(VectorIndex.build(rng.permutation(vectors)), studies)

    assert measured is not None
    assert all(abs(step.share.value - measured.chance) < 0.1 for step in measured.steps)


def test_of_few_patients_or_of_vectors_that_are_all_alike_nothing_is_said(rng: np.random.Generator) -> None:
    studies, vectors = groups(rng, 300)

    assert PairShares.measured(VectorIndex.build(vectors[:180]), studies[:180]) is None
    assert PairShares.measured(VectorIndex.build(np.repeat(vectors[:1], 300, axis=0)), studies) is None


@pytest.mark.parametrize(("label", "normal"), [(None, None), (0, 1), (7, 7)])
def test_labels_that_tell_no_finding_say_nothing(
    label: int | None, normal: int | None, rng: np.random.Generator
) -> None:
    studies, vectors = groups(rng, 300)
    for name in FINDINGS:
        labels = pa.array([normal if name == "No Finding" else label] * 300, pa.int8())
        studies = studies.set_column(studies.schema.get_field_index(name), name, labels)

    assert PairShares.measured(VectorIndex.build(vectors), studies) is None


def test_an_index_keeps_it_sealed_through_additions_and_compaction_and_answers_tell_it(
    folder: Path, tmp_path: Path
) -> None:
    collection = load_collection(folder)
    stored = PairShares.said(collection.manifest)
    assert stored is not None
    assert stored == PairShares.measured(collection.vectors, collection.studies)
    assert Retriever(collection).similar(STUDY, 5).pairs == stored

    living = LivingCollection(shutil.copytree(folder, tmp_path / "index"))
    new = addition("new/s1", unit(np.random.default_rng(1), 8))
    living.add([replace(new, study=replace(new.study, extra={}))])
    assert living.similar(STUDY, 5).pairs == stored
    living.compact()
    assert LivingCollection(tmp_path / "index").similar(STUDY, 5).pairs == stored

    path = tmp_path / "index" / "manifest.json"
    said = json.loads(path.read_text())
    del said["precedent.seal"]
    said["pairs"]["chance"] = "<b>"
    path.write_text(json.dumps(said | {"precedent.seal": seal_of(said)}))
    with pytest.raises(ArtefactError, match=r"pairs\.chance"):
        load_collection(tmp_path / "index")


def test_search_tells_it_in_one_sentence(folder: Path) -> None:
    told = CliRunner().invoke(precedent, ["search", str(folder), "--study", STUDY], catch_exceptions=False).stdout

    stored = PairShares.said(load_collection(folder).manifest)
    assert stored is not None
    assert told.count(stored.sentence) == 1


def test_of_a_text_nothing_is_said(folder: Path, tmp_path: Path) -> None:
    collection = load_collection(folder)
    texts, vectors = tmp_path / "texts.parquet", collection.vectors.vectors(np.array([0]))
    Texts.of(collection.manifest["fingerprint"], ["edema"], vectors).save(texts)
    words = ["search", str(folder), "--text", "edema", "--texts", str(texts), "--json"]
    client = load(parse_mounts([str(folder)]), None, texts=texts).test_client()

    assert json.loads(CliRunner().invoke(precedent, words).stdout)["pairs"] is None
    assert client.post("/v1/search", json={"text": "edema"}).get_json()["pairs"] is None
    assert client.post("/v1/search", json={"embedding": vectors[0].tolist()}).get_json()["pairs"] is not None


@pytest.mark.parametrize("scopes", [("read",), ("read", "vectors")])
def test_the_page_tells_it_of_each_hit_and_marks_once_where_chance_begins(
    scopes: tuple[str, ...], folder: Path, tmp_path: Path
) -> None:
    headers = {"Authorization": f"Bearer {create_token(tmp_path / 'tokens.json', 'one', scopes)}"}
    client = with_tokens(load(parse_mounts([str(folder)], []), None), tmp_path / "tokens.json").test_client()
    page = client.get("/", query_string={"study": STUDY, "k": 100}, headers=headers).text
    answer = client.get(f"/v1/studies/{STUDY}/similar?k=100&group_by=patient", headers=headers).get_json()
    steps, least = answer["pairs"]["steps"], answer["pairs"]["above_chance_from"]

    cards = re.findall(r'data-similarity="([^"]+)".*?Pairs this alike share a finding in (\d+)&nbsp;%', page, re.DOTALL)
    assert [float(similarity) for similarity, _ in cards] == [hit["similarity"] for hit in answer["hits"]]
    for similarity, share in cards:  # by the similarity as it is shown, so that a share tells no more of it
        reached = [step for step in steps if step["least"] <= float(similarity)][-1]
        assert int(share) == pytest.approx(100 * reached["share"]["value"], abs=1)
    before, after = page.split('<li class="chance">')
    assert all(float(one) >= least for one in re.findall(r'data-similarity="([^"]+)"', before))
    assert all(float(one) < least for one in re.findall(r'data-similarity="([^"]+)"', after))
