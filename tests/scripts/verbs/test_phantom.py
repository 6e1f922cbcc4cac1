"""The simulated collection: the same bytes for the same seed, CheXpert's layout, and findings where the truth says."""

import csv
import dataclasses
import hashlib
import subprocess
from pathlib import Path
from shutil import which
from typing import Any

import cv2
import numpy as np
import pytest
from command_line import json_of

from encoder.films.dicom_elements import read_header
from index.importing.dicom import import_dicom
from index.importing.mapped import import_table
from index.importing.mapping import load_mapping
from index.table.studies import FINDINGS
from scripts.chest_phantom.anatomy import draw_chest, draw_pose
from scripts.chest_phantom.collection import CollectionSummary, write_collection
from scripts.chest_phantom.findings import SIMULATED_FINDINGS, draw_finding
from scripts.chest_phantom.patient import BOX_COLUMNS, FILM_COLUMNS
from scripts.chest_phantom.scene import Scene

PATIENTS, SEED = 16, 5


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CollectionSummary]:
    out = tmp_path_factory.mktemp("phantom")
    return out, write_collection(out, PATIENTS, SEED, jobs=2)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def scene(finding: str, seed: int = 3, **changes: object) -> Scene:
    rng = np.random.default_rng(seed)
    chest, pose = draw_chest(rng), draw_pose(rng)
    return Scene(chest, pose, (dataclasses.replace(draw_finding(finding, rng), **changes),))


def test_the_same_seed_gives_the_same_bytes_whatever_the_processes(
    phantom: tuple[Path, CollectionSummary], tmp_path: Path
) -> None:
    write_collection(tmp_path / "alone", PATIENTS, SEED, jobs=1)
    assert digests(tmp_path / "alone") == digests(phantom[0])


def test_another_seed_gives_other_films(phantom: tuple[Path, CollectionSummary], tmp_path: Path) -> None:
    write_collection(tmp_path / "other", 1, SEED + 1, jobs=1)
    first = "train/patient00001/study1/view1_frontal.jpg"
    assert (tmp_path / "other" / first).read_bytes() != (phantom[0] / first).read_bytes()


def test_an_unfinished_folder_is_gone_on_with_and_another_is_refused(
    phantom: tuple[Path, CollectionSummary], tmp_path: Path
) -> None:
    def stop_at_three(done: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_collection(tmp_path / "cut", PATIENTS, SEED, jobs=1, on_progress=stop_at_three)
    assert not (tmp_path / "cut" / "train.csv").exists()
    write_collection(tmp_path / "cut", PATIENTS, SEED, jobs=1)
    assert digests(tmp_path / "cut") == digests(phantom[0])
    with pytest.raises(FileExistsError, match="choose another folder"):
        write_collection(tmp_path / "cut", PATIENTS, SEED + 1, jobs=1)


def test_the_layout_is_chexperts(phantom: tuple[Path, CollectionSummary]) -> None:
    out, summary = phantom
    assert (
        tuple(rows(out / "train.csv")[0])
        == FILM_COLUMNS
        == ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *FINDINGS)
    )
    imported = import_table(load_mapping("chexpert"), out, tables=[out / "train.csv"], strict=True)
    assert (imported.images, imported.table.num_rows) == (summary.films, summary.studies)
    assert len(set(imported.table["patient_id"].to_pylist())) == summary.patients == PATIENTS


def test_it_has_what_real_collections_have(phantom: tuple[Path, CollectionSummary]) -> None:
    out, summary = phantom
    labels = {row[name] for row in rows(out / "train.csv") for name in SIMULATED_FINDINGS}
    assert labels == {"1.0", "0.0", "-1.0", ""}
    assert summary.studies > summary.patients
    assert 0 < summary.without_lateral < summary.studies
    assert summary.clear > 0
    assert min(summary.findings.values()) > 0


def test_no_label_contradicts_the_truth(phantom: tuple[Path, CollectionSummary]) -> None:
    truth = {row["study_id"]: row for row in rows(phantom[0] / "ground_truth.csv")}
    for row in rows(phantom[0] / "train.csv"):
        present = truth["/".join(row["Path"].split("/")[1:3])]
        for name in SIMULATED_FINDINGS:
            assert (row[name], present[name]) not in {("1.0", "0"), ("0.0", "1")}
        assert (row["No Finding"] == "1.0") == all(present[name] == "0" for name in SIMULATED_FINDINGS)


def test_every_simulated_finding_has_a_box_inside_its_film(phantom: tuple[Path, CollectionSummary]) -> None:
    out, _ = phantom
    boxes = rows(out / "boxes.csv")
    assert tuple(boxes[0]) == BOX_COLUMNS
    for box in boxes:
        height, width = cv2.imread(str(out / box["Path"]), cv2.IMREAD_GRAYSCALE).shape
        assert 0 <= int(box["x0"]) < int(box["x1"]) <= width
        assert 0 <= int(box["y0"]) < int(box["y1"]) <= height
    boxed = {("/".join(box["Path"].split("/")[1:3]), box["Finding"]) for box in boxes}
    for row in rows(out / "ground_truth.csv"):
        assert {name for name in SIMULATED_FINDINGS if row[name] == "1"} == {
            f for s, f in boxed if s == row["study_id"]
        }


@pytest.mark.parametrize("finding", SIMULATED_FINDINGS)
@pytest.mark.parametrize("view", ["frontal", "lateral"])
def test_a_finding_changes_the_film_most_inside_its_boxes(finding: str, view: str) -> None:
    shown = scene(finding, severity=0.7)
    change = np.abs(shown.absorption(view) - shown.absorption(view, without=finding))
    boxes = shown.boxes(view, finding)
    assert boxes
    inside = np.zeros(change.shape, dtype=bool)
    for x0, y0, x1, y1 in boxes:
        inside[y0:y1, x0:x1] = True
    assert inside.flat[change.argmax()]
    assert change[inside].sum() > 0.6 * change.sum()


@pytest.mark.parametrize("side", [-1, 1])
def test_an_effusion_lies_on_its_side(side: int) -> None:
    shown = scene("Pleural Effusion", severity=0.8, sides=(side,))
    change = np.abs(shown.absorption("frontal") - shown.absorption("frontal", without="Pleural Effusion"))
    left, right = np.array_split(change, 2, axis=1)  # of the film; the patient's left is the film's right
    assert (right.sum() > left.sum()) == (side == 1)


@pytest.mark.parametrize("seed", range(4))
def test_an_enlarged_heart_grows_most_to_the_patients_left(seed: int) -> None:
    shown = scene("Cardiomegaly", seed, severity=1.0)
    change = shown.absorption("frontal") - shown.absorption("frontal", without="Cardiomegaly")
    left, right = np.array_split(np.maximum(change, 0), 2, axis=1)
    assert right.sum() > left.sum()


def test_its_films_can_be_dicom_without_a_fault_that_an_import_takes_for_the_same_studies(tmp_path: Path) -> None:
    written = json_of("phantom", "--patients", 2, "--seed", SEED, "--jobs", 1, "--dicom", "--out", tmp_path / "films")
    films = sorted((tmp_path / "films").rglob("*.dcm"))
    imported = import_dicom(tmp_path / "films", read_header).table.to_pylist()

    assert len(films) == written["films"]
    assert {row["patient_id"] for row in imported} == {"patient00001", "patient00002"}
    table = import_table(load_mapping("chexpert"), tmp_path / "films", tables=[tmp_path / "films" / "train.csv"])
    assert sorted(map(shown, imported)) == sorted(map(shown, table.table.to_pylist()))
    write_collection(tmp_path / "again", 2, SEED, jobs=1, dicom=True)
    assert digests(tmp_path / "again") == digests(tmp_path / "films")
    with pytest.raises(FileExistsError, match="choose another folder"):
        write_collection(tmp_path / "films", 2, SEED, jobs=1)
    if which("dciodvfy") is None or which("dcmftest") is None:
        pytest.skip("no dciodvfy or dcmftest; run: apt-get install --no-install-recommends dicom3tools dcmtk")
    for film in films:
        told = subprocess.run(["dciodvfy", "-new", film], capture_output=True, text=True, check=False)
        assert (told.stdout + told.stderr).split() == ["DXImageForPresentation"], film
        subprocess.run(["dcmftest", film], check=True, capture_output=True)


def shown(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return what both forms of a collection say of a study."""
    return (row["frontal_path"], row["lateral_path"] or "", row["projection"], row["sex"], row["age"])
