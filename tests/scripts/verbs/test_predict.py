"""`precedent predict` on real files: the table, the JSON, what a collection adds, and every refusal."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from command_line import refusal
from film_files import RAMP, dicom

from encoder.embedder import Embedder
from encoder.errors import CheckpointError, EncoderError
from encoder.films.preprocess import Preprocessing
from encoder.findings.calibration import Evidence, OperatingPoints
from encoder.findings.probe import LinearProbe
from encoder.network.checkpoint import save_encoder
from encoder.network.config import EncoderConfig
from encoder.network.model import DualEfficientNetEncoder
from index.errors import FilterError, FingerprintMismatch
from index.search.familiarity import NO_CALL
from index.table.labels import Labelling, LabelPolicy
from index.table.studies import save_studies, studies_schema
from scripts.cli import precedent

STUDIES = 24
FINDINGS = ("Edema", "Fracture", "viral")
NAMES = [f"patient{n:05d}" for n in range(STUDIES)]


def run(*words: str | Path) -> Result:
    result = CliRunner().invoke(precedent, list(map(str, words)))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def save_member(folder: Path, encoder: DualEfficientNetEncoder, findings: tuple[str, ...] = FINDINGS) -> None:
    """Write encoder.safetensors and probe/ with random weights."""
    save_encoder(folder / "encoder.safetensors", encoder, Preprocessing(size=64))
    embedder, count = Embedder.load(folder / "encoder.safetensors", device="cpu"), len(findings)
    ones, zeros = np.ones(count, np.float32), np.zeros(count, np.float32)
    weight = np.random.default_rng(0).normal(size=(embedder.embedding_dim, count)).astype(np.float32)
    points = {"Edema": OperatingPoints(0.5, 0.3, 0.6), "viral": OperatingPoints(0.0, 0.0, 0.0)}
    evidence = {name: Evidence(60, 300, 0.8, 0.7, 0.9) for name in findings} | {"viral": Evidence(9, 99, 0.6, 0.4, 0.8)}
    LinearProbe(
        embedder.fingerprint,
        findings,
        weight,
        zeros,
        (1.0,) * count,
        ones,
        0 * ones,
        points=points,
        evidence=evidence,
        set_on={"Edema": (20, 90)},
        labels=Labelling(LabelPolicy(blank="ignore")).as_object(),
    ).save(folder / "probe")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: DualEfficientNetEncoder) -> Path:
    """Return a folder with encoder.safetensors, probe/, index/ and the films of 24 patients."""
    root = tmp_path_factory.mktemp("predict")
    rng, rows = np.random.default_rng(3), []
    for number, name in enumerate(NAMES):
        cv2.imwrite(str(root / f"{name}.png"), cv2.resize(rng.integers(0, 255, (6, 6), np.uint8), (80, 80)))
        known = {"study_id": f"{name}/study1", "patient_id": name, "frontal_path": f"{name}.png", "age": 50.0}
        labels = {"Edema": number % 2, "Etiology": ["virus", "bacteria"][number % 2]}
        rows.append(dict.fromkeys(studies_schema().names) | known | labels)
    schema = studies_schema([pa.field("Etiology", pa.string())])
    save_studies(pa.Table.from_pylist(rows, schema), root / "studies.parquet")
    save_member(root, tiny_encoder)
    words = ["--images", root, "--encoder", root / "encoder.safetensors", "--out", root / "embeddings"]
    run("export", root / "studies.parquet", *words)
    assert run("index", root / "embeddings", "--out", root / "index").exit_code == 0
    return root


def asked(world: Path, *more: str | Path) -> list[str | Path]:
    member = ["--encoder", world / "encoder.safetensors", "--probe", world / "probe"]
    return ["predict", *member, "--frontal", world / f"{NAMES[0]}.png", *more]


def answer(world: Path, *more: str | Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(*asked(world, *more, "--json")).stdout)
    return found


def test_without_an_index_the_probe_speaks_alone(world: Path) -> None:
    found = answer(world)
    embedder = Embedder.load(world / "encoder.safetensors", device="cpu")
    embedding = embedder.embed_study(world / f"{NAMES[0]}.png", None)
    expected = dict(zip(FINDINGS, LinearProbe.load(world / "probe").probabilities(embedding[None])[0], strict=True))
    chances = {one["finding"]: one["probability"] for one in found["predictions"]}
    assert chances == pytest.approx(expected, abs=1e-5)
    assert list(chances.values()) == sorted(chances.values(), reverse=True)
    assert (found["labels"], found["familiarity"], found["contrast"]) == (None, None, None)
    assert {(one["vote"], one["disagrees"]) for one in found["predictions"]} == {(None, False)}


def test_an_index_adds_votes_familiarity_and_a_contrast(world: Path) -> None:
    found = answer(world, world / "index", "--patient", NAMES[0], "-k", "10", "--contrast", "Edema", "--age", "52")
    by_name = {one["finding"]: one for one in found["predictions"]}
    edema = by_name["Edema"]
    assert edema["vote"]["neighbours"] == 10
    assert edema["vote"]["low"] <= edema["vote"]["share"] <= edema["vote"]["high"]
    assert isinstance(edema["disagrees"], bool)
    assert by_name["viral"]["vote"] is None  # a class is no column
    assert by_name["Fracture"]["disagrees"] is False  # no thresholds
    assert found["familiarity"]["reference"] == STUDIES
    assert found["familiarity"]["unfamiliar"] is (found["familiarity"]["percentile"] < 5)
    sides = found["contrast"]
    assert [sides[one]["study"]["findings"]["Edema"] for one in ("present", "absent")] == [1, 0]
    assert sides["absent"]["study"]["study_id"] != f"{NAMES[0]}/study1"
    assert sides["present"]["matched"] == ["views", "age"]


def test_a_film_of_the_collection_is_its_own_neighbour_unless_its_patient_is_named(world: Path) -> None:
    anonymous, named = (answer(world, world / "index", *more)["familiarity"] for more in ((), ("--patient", NAMES[0])))
    assert anonymous["similarity"] == pytest.approx(1, abs=1e-5)
    assert anonymous["percentile"] == 100
    assert named["similarity"] < anonymous["similarity"]


def test_classes_get_a_vote_where_their_words_are_given(world: Path) -> None:
    words = ["--class", "viral:Etiology=virus", "--class", "bacterial:Etiology=bacteria"]
    found = answer(world, world / "index", *words)
    votes = {one["finding"]: one["vote"] for one in found["predictions"]}
    assert 0 < votes["viral"]["share"] < 1
    assert votes["Edema"] is None
    assert found["labels"].startswith("classes: viral")


def test_a_call_stands_with_its_reason_and_with_how_well_the_probe_tells_the_finding(world: Path) -> None:
    by_name = {one["finding"]: one for one in answer(world, world / "index")["predictions"]}
    output = run(*asked(world, world / "index")).stdout

    assert by_name["Edema"]["call"] is not None
    assert by_name["Edema"]["evidence"] == {"positives": 60, "negatives": 300, "auroc": 0.8, "low": 0.7, "high": 0.9}
    assert (by_name["viral"]["call"], by_name["Fracture"]["call"]) == (None, None)
    assert by_name["viral"]["no_call"].startswith(
        "not shown to be better than chance: the interval of its AUROC, 0.40-0.80"
    )
    assert "0.80 (0.70\u20130.90)" in output
    for words in (
        "60/300",
        f"Edema {by_name['Edema']['call']}: {by_name['Edema']['meaning']}",
        "no call on viral: not shown",
    ):
        assert words in output


def test_nothing_is_called_on_an_unfamiliar_film(world: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "stripes.png"), np.tile(np.repeat([0, 255], 4).astype(np.uint8), (80, 10)))
    member = ["--encoder", world / "encoder.safetensors", "--probe", world / "probe"]
    words = ["predict", *member, "--frontal", tmp_path / "stripes.png", world / "index"]
    found = json.loads(run(*words, "--json").stdout)

    assert found["familiarity"]["unfamiliar"] is True
    assert {one["call"] for one in found["predictions"]} == {None}
    assert {one["no_call"] for one in found["predictions"]} == {NO_CALL}
    assert f"no call on {', '.join(one['finding'] for one in found['predictions'])}: {NO_CALL}" in run(*words).stdout
    assert "was not checked; give INDEX" in run(*words[:-1]).stdout


def test_the_neighbours_labels_count_as_they_did_when_the_probe_was_learnt(world: Path, tmp_path: Path) -> None:
    own, other = (answer(world, world / "index", *more) for more in ((), ("--blank", "zeros")))
    fracture = [next(one for one in found["predictions"] if one["finding"] == "Fracture") for found in (own, other)]

    assert own["labels"] == "labels: uncertain (-1) is ignored; blank is ignored"
    assert (fracture[0]["vote"], fracture[1]["vote"]["neighbours"]) == (None, 20)
    probe = replace(LinearProbe.load(world / "probe"), labels=None, evidence=None)
    probe.save(tmp_path / "old")
    old = ["predict", "--encoder", world / "encoder.safetensors", "--probe", tmp_path / "old", "--json"]
    found = json.loads(run(*old, "--frontal", world / f"{NAMES[0]}.png", world / "index").stdout)
    assert found["labels"].endswith("how labels counted in training is not known")
    assert {one["call"] for one in found["predictions"]} == {None}


def test_augmentation_and_dropout_are_options(world: Path) -> None:
    found = answer(world, "--tta", "--variant", "mirrored", "--mc-dropout", "5", "--seed", "3")
    assert found["options"]["variants"] == ["plain", "turned left", "turned right", "brighter", "darker", "mirrored"]
    assert (found["options"]["passes"], found["options"]["seed"]) == (5, 3)
    assert all(one["spread"] > 0 for one in found["predictions"])


def test_the_first_finding_is_mapped_where_a_folder_is_given(world: Path, tmp_path: Path) -> None:
    found = answer(world, "--maps", tmp_path / "maps")

    [drawn] = found["maps"]
    assert (drawn["file"], drawn["png"]) == (str(tmp_path / "maps" / "query_frontal.png"), None)
    assert cv2.imread(drawn["file"]).shape == (drawn["height"], drawn["width"], 3) == (80, 80, 3)
    assert np.load(tmp_path / "maps" / "query_frontal.npy").shape == (80, 80)
    assert answer(world)["maps"] == []


def test_an_ensemble_names_all_its_encoders(world: Path, tmp_path: Path) -> None:
    second = DualEfficientNetEncoder(EncoderConfig(backbone="test_efficientnet", embedding_dim=256, dropout=0.0)).eval()
    save_member(tmp_path, second)
    member = ["--encoder", tmp_path / "encoder.safetensors", "--probe", tmp_path / "probe"]
    found = answer(world, *member, world / "index")
    assert len(set(found["fingerprints"])) == 2
    with pytest.raises(EncoderError, match="dropout is 0"):
        answer(world, *member, "--mc-dropout", "5")
    with pytest.raises(EncoderError, match="precedent probe"):
        run(*asked(world, "--encoder", tmp_path / "encoder.safetensors", "--probe", world / "probe"))
    with pytest.raises(FingerprintMismatch, match="precedent index"):
        run("predict", *member, "--frontal", world / f"{NAMES[0]}.png", world / "index")


def test_the_table_says_how_it_came_about(world: Path) -> None:
    more = [world / "index", "--mc-dropout", "4", "--contrast", "Edema", "--findings", "Edema"]
    output = run(*asked(world, *more)).stdout
    for words in (
        "±",
        "neighbours' vote",
        "4 dropout passes",
        "familiarity: 100.0 % of the collection's films",
        "nearest study without Edema",
    ):
        assert words in output
    assert "Fracture" not in output


def test_what_cannot_be_answered_is_refused_in_words(world: Path, tmp_path: Path) -> None:
    assert "one --probe for each --encoder" in run(*asked(world, "--probe", world / "probe")).stderr
    assert "needs INDEX" in run(*asked(world, "--contrast", "Edema")).stderr
    assert "give --frontal and/or --lateral" in run(*asked(world)[:5]).stderr
    with pytest.raises(EncoderError, match=r"findings of the probe, got Asthma; it has: Edema"):
        run(*asked(world, "--findings", "Asthma"))
    with pytest.raises(FilterError, match="no column 'Asthma'"):
        run(*asked(world, world / "index", "--contrast", "Asthma"))
    with pytest.raises(CheckpointError, match="no probe in"):
        run(*asked(world)[:3], "--probe", tmp_path, "--frontal", world / f"{NAMES[0]}.png")


def test_an_ensemble_taught_by_two_policies_is_refused_in_a_sentence(world: Path, tmp_path: Path) -> None:
    probe = LinearProbe.load(world / "probe")
    replace(probe, labels=Labelling(LabelPolicy(blank="zeros")).as_object()).save(tmp_path / "other")
    member = ["--encoder", world / "encoder.safetensors", "--probe", tmp_path / "other"]

    assert "expected probes whose labels were read alike" in refusal(*asked(world, *member, world / "index"))


@pytest.mark.parametrize("verb", ["predict", "explain", "search"])
@pytest.mark.parametrize("indexed", [True, False])
def test_what_is_odd_about_films_is_told(world: Path, tmp_path: Path, verb: str, indexed: bool) -> None:
    film = {"ViewPosition": "PA", "PixelSpacing": [0.2, 0.1], "BodyPartExamined": "HAND"}
    for number, (view, pixels) in enumerate({"frontal": RAMP, "lateral": RAMP[:, ::-1].copy()}.items()):
        (tmp_path / f"{view}.dcm").write_bytes(dicom(pixels, SOPInstanceUID=f"1.{number}", **film))
    films = ["--frontal", tmp_path / "frontal.dcm", "--lateral", tmp_path / "lateral.dcm"]
    words = [verb, *films, "--encoder", world / "encoder.safetensors", "--ignore-body-part", "HAND"]
    words += [] if verb == "search" else ["--probe", world / "probe"]
    words += ["--finding", "Edema", "--no-trust", "--out", tmp_path / "maps"] if verb == "explain" else []
    words += [world / "index"] if indexed or verb == "search" else []

    told = json.loads(run(*words, "--json").stdout)["film_notices"]

    assert any(one.startswith("Two frontals: the film given as lateral is, as its DICOM") for one in told)
    for view in ("frontal", "lateral"):
        note = f"The {view} film is read otherwise than it is written: pixels are not square (PixelSpacing); the film"
        assert any(one.startswith(note) for one in told)
    assert set(told) <= set(run(*words).stdout.splitlines())
