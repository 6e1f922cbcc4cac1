"""All studies of one simulated patient: films as JPEG or DICOM bytes, CheXpert's rows, boxes and the ground truth.

Everything is drawn from one generator, seeded by collection and patient alone.
"""

from dataclasses import dataclass

import numpy as np

from index.table.studies import FINDINGS
from scripts.chest_phantom.anatomy import Chest, Pose, draw_chest, draw_pose
from scripts.chest_phantom.dicom import Header, encode_dicom
from scripts.chest_phantom.film import Exposure, develop, draw_exposure, encode
from scripts.chest_phantom.findings import SIMULATED_FINDINGS, Abnormality, draw_findings, follow_up
from scripts.chest_phantom.labels import Labels, draw_labels
from scripts.chest_phantom.scene import Scene

FILM_COLUMNS = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *FINDINGS)
BOX_COLUMNS = ("Path", "Finding", "x0", "y0", "x1", "y1")
TRUTH_COLUMNS = ("study_id", *SIMULATED_FINDINGS)

Row = list[str]
_STUDIES = (0.55, 0.30, 0.15)  # chance of one, two, three studies
_NO_LATERAL = {"AP": 0.65, "PA": 0.15}  # a share of 0.35 over all


@dataclass(frozen=True)
class StudyPlan:
    """One study before it is taken."""

    study_id: str
    pose: Pose
    abnormalities: tuple[Abnormality, ...]
    labels: Labels
    views: tuple[str, ...]
    exposures: tuple[Exposure, ...]


@dataclass(frozen=True)
class PatientFilms:
    """What one patient brings to the collection."""

    films: dict[str, bytes]  # by Path
    film_rows: list[Row]  # FILM_COLUMNS
    box_rows: list[Row]  # BOX_COLUMNS
    truth_rows: list[Row]  # TRUTH_COLUMNS


def plan_patient(seed: int, number: int) -> tuple[Chest, list[StudyPlan]]:
    """Return patient `number` of the collection `seed`: the body, and one to three studies whose findings evolve."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, number]))
    chest = draw_chest(rng)
    abnormalities = draw_findings(rng)
    plans = []
    for study in range(1, int(rng.choice([1, 2, 3], p=_STUDIES)) + 1):
        abnormalities = abnormalities if study == 1 else follow_up(abnormalities, rng)
        plans.append(_plan_study(f"patient{number:05d}/study{study}", abnormalities, rng))
    return chest, plans


def take_patient(seed: int, number: int, *, dicom: bool = False) -> PatientFilms:
    """Return films and rows of patient `number` of the collection `seed`.

    Args:
        dicom: films as DICOM in the place of JPEG.
    """
    chest, plans = plan_patient(seed, number)
    taken = PatientFilms({}, [], [], [])
    for plan in plans:
        present = {abnormality.finding for abnormality in plan.abnormalities}
        taken.truth_rows.append([plan.study_id, *(str(int(name in present)) for name in SIMULATED_FINDINGS)])
        scene = Scene(chest, plan.pose, plan.abnormalities)
        for index, (view, exposure) in enumerate(zip(plan.views, plan.exposures, strict=True), start=1):
            path = f"train/{plan.study_id}/view{index}_{view}.{'dcm' if dicom else 'jpg'}"
            film = develop(scene.absorption(view), exposure)
            position = plan.pose.projection if view == "frontal" else "LL"
            spacing = 10 * scene.view(view).cm_per_pixel
            header = Header(seed, plan.study_id, index, position, chest.sex, chest.age, spacing)
            taken.films[path] = encode_dicom(film, header) if dicom else encode(film)
            taken.film_rows.append(_film_row(path, chest, plan, view))
            for abnormality in plan.abnormalities:
                boxes = scene.boxes(view, abnormality.finding)
                taken.box_rows.extend([path, abnormality.finding, *map(str, box)] for box in boxes)
    return taken


def _plan_study(study_id: str, abnormalities: tuple[Abnormality, ...], rng: np.random.Generator) -> StudyPlan:
    pose = draw_pose(rng)
    alone = rng.random() < _NO_LATERAL[pose.projection]
    bedside = pose.projection == "AP"
    exposures = (draw_exposure(rng, bedside), draw_exposure(rng, False))
    labels = draw_labels(abnormalities, rng)
    views = ("frontal",) if alone else ("frontal", "lateral")
    return StudyPlan(study_id, pose, abnormalities, labels, views, exposures[: len(views)])


def _film_row(path: str, chest: Chest, plan: StudyPlan, view: str) -> Row:
    projection = plan.pose.projection if view == "frontal" else ""
    labels = [plan.labels[name] for name in FINDINGS]
    values = ["" if label is None else f"{label:.1f}" for label in labels]
    return [path, chest.sex, str(chest.age), view.capitalize(), projection, *values]
