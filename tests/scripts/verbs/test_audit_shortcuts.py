"""`precedent audit-shortcuts`: a planted shortcut is found, one that is not planted is not; what it prints and refuses."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from command_line import done, json_of, refusal
from export_files import drawn_studies, save_export

from encoder.films.borders import border_share
from scripts.chest_phantom.anatomy import draw_chest, draw_pose
from scripts.chest_phantom.film import develop, draw_exposure
from scripts.chest_phantom.findings import draw_finding
from scripts.chest_phantom.scene import Scene
from scripts.work.raw_pixels import raw_pixels


def export_of(folder: Path, *, goes_with: bool, is_seen: bool, seed: int = 1, count: int = 240) -> Path:
    """Return an export whose vectors tell the finding a little and, where it is seen, the marker well."""
    rng = np.random.default_rng(seed)
    ill = rng.random(count) < 0.4
    marked = np.where(rng.random(count) < 0.9, ill, ~ill) if goes_with else rng.random(count) < 0.5
    vectors = rng.normal(size=(count, 16))
    vectors[:, 0] += 1.5 * ill
    vectors[:, 1] += 6 * (is_seen & marked)
    unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return save_export(folder, drawn_studies(ill, marked, rng), unit)


def run(export: Path, out: Path, *words: str | Path) -> dict[str, Any]:
    given = ("--findings", "Pneumonia", "--draws", "500", "--folds", "2", *words)
    found: dict[str, Any] = json_of("audit-shortcuts", export, "--out", out, *given)["attributes"]
    return found


@pytest.mark.parametrize(
    ("goes_with", "is_seen", "readable", "leaned_on"),
    [
        pytest.param(True, True, True, True, id="planted"),
        pytest.param(False, False, False, False, id="neither"),
        pytest.param(False, True, True, False, id="seen-alone", marks=pytest.mark.slow),
    ],
)
def test_retrieval_leans_on_what_is_seen_and_goes_with_a_finding(
    tmp_path: Path, goes_with: bool, is_seen: bool, readable: bool, leaned_on: bool
) -> None:
    export = export_of(tmp_path / "export", goes_with=goes_with, is_seen=is_seen)
    found = run(export, tmp_path / "out", "--column", "Marker")

    marker = found["Marker"]
    assert (marker["readable"], marker["leaned_on"]) == (readable, leaned_on)
    assert {name: found[name]["leaned_on"] for name in ("sex", "age")} == {"sex": False, "age": False}
    assert found["sex"]["auroc"]["low"] <= 0.5 <= found["sex"]["auroc"]["high"]
    rule = marker["retrieval"]["any finding"]
    assert rule["as_few"]["chance"] == rule["differing"]["chance"] > 0
    assert rule["lost"]["value"] == pytest.approx(rule["as_few"]["value"] - rule["differing"]["value"])
    assert sum(marker["groups"].values()) + marker["unknown"] == 240


@pytest.mark.slow
def test_what_goes_with_a_finding_and_is_not_seen_costs_nothing(tmp_path: Path) -> None:
    export = export_of(tmp_path / "export", goes_with=True, is_seen=False)
    assert not run(export, tmp_path / "out", "--column", "Marker")["Marker"]["leaned_on"]


def test_it_says_what_it_found_what_it_left_out_and_why(tmp_path: Path) -> None:
    export = export_of(tmp_path / "export", goes_with=True, is_seen=True)
    words = ("--out", tmp_path / "out", "--column", "Marker", "--draws", "500", "--folds", "2")
    shown = done("audit-shortcuts", export, *words).stdout
    page = (tmp_path / "out" / "report.html").read_text()

    for text in (shown, page):
        assert "Marker: can be read from the vectors; retrieval leans on it" in text
        assert "projection: n/a: expected two groups of 20 patients or more" in text
        assert "film borders left out" in text
    assert "<svg" in page
    assert (tmp_path / "out" / "metrics.json").is_file()
    assert "there are: " in refusal("audit-shortcuts", export, "--out", tmp_path / "out", "--column", "Nothing")


def test_a_border_is_what_is_flat_along_an_edge(rng: np.random.Generator) -> None:
    film = rng.random((200, 100)).astype(np.float32)
    assert border_share(film) == 0
    film[:20], film[:, 90:] = 0, 0
    assert border_share(film) == pytest.approx(1 - 0.9 * 0.9, abs=0.01)
    assert border_share(np.full((50, 50), 0.5, np.float32)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("planted", [True, False], ids=["planted", "not-planted"])
def test_a_border_planted_on_simulated_films_is_found(tmp_path: Path, planted: bool) -> None:
    rng, count = np.random.default_rng(3), 90
    ill = np.arange(count) % 2 == 0
    others = rng.permutation(count) < count // 10 if planted else rng.permutation(count) < count // 2
    framed = ill ^ others
    for row in range(count):
        chest = draw_chest(rng)
        finding = (draw_finding("Pleural Effusion", rng),) if ill[row] else ()
        scene, exposure = Scene(chest, draw_pose(rng), finding), draw_exposure(rng, False)
        width = 24 if framed[row] else 0
        bare = replace(exposure, marker="", collimation=(width,) * 4)
        cv2.imwrite(str(tmp_path / f"{row}.png"), develop(scene.absorption("frontal"), bare))
    studies = drawn_studies(ill, framed, rng)
    export = save_export(tmp_path / "export", studies, raw_pixels(studies, tmp_path))

    border = run(export, tmp_path / "out", "--images", tmp_path)["film border"]

    assert min(border["groups"].values()) >= 0.4 * count  # about halves, by how much of a film is flat
    assert border["readable"]
    assert border["leaned_on"] == planted
