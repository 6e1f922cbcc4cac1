"""NIH ChestX-ray14's table (`Data_Entry_2017.csv`, or the 2020 one) as a table of studies.

No image is opened: that a file of that name is there is all that is asked.
"""

import os
from collections.abc import Iterator
from pathlib import Path, PurePath, PurePosixPath

import pandas as pd
import pyarrow as pa

from index.errors import StudiesError
from index.importing.source import Imported, Notices, as_ages, as_extra, as_text, read_source_csv
from index.storage.places import Place
from index.table.studies import FINDINGS, as_studies

SAME_WORDS = {
    "No Finding": "No Finding",
    "Atelectasis": "Atelectasis",
    "Cardiomegaly": "Cardiomegaly",
    "Consolidation": "Consolidation",
    "Edema": "Edema",
    "Effusion": "Pleural Effusion",
    "Pneumonia": "Pneumonia",
    "Pneumothorax": "Pneumothorax",
}
# Narrower or other than any CheXpert word (a nodule is a lung lesion, not every lung lesion is a nodule).
OTHER_WORDS = ("Emphysema", "Fibrosis", "Hernia", "Infiltration", "Mass", "Nodule", "Pleural_Thickening")
SOURCE_COLUMNS = (
    "Image Index",
    "Finding Labels",
    "Patient ID",
    "Patient Age",
    "Patient Gender",
    "View Position",
)
# The table's header is not quoted, so that `OriginalImage[Width,Height]` arrives as two columns.
_NAMES = {
    "OriginalImage[Width": "Original Image Width",
    "Height]": "Original Image Height",
    "OriginalImagePixelSpacing[x": "Original Image Pixel Spacing X",
    "y]": "Original Image Pixel Spacing Y",
}
_FILE = r"^(?P<patient>\d{8})_(?P<number>\d{3,})\.(?i:png|jpg|jpeg|dcm)$"
_SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm")
_SEX = {"M": "Male", "F": "Female"}


def import_nih(csv: Path, images: Path, *, strict: bool = False, check_images: bool = True) -> Imported:
    """Return one row a film of an NIH table: each film is a study of its own, named after its file.

    `00000427_003.png` becomes study `patient00000427/study3`, always a frontal. A word of `Finding Labels` is
    a 1 in CheXpert's column where the two mean the same (`SAME_WORDS`), else in an extra int8 column of its
    own name (`OTHER_WORDS`). A word that is not listed was negated in the report or never mentioned; the
    table does not say which, so it is blank and not 0. Every other column passes through.

    Images are found by name anywhere below `images`, with any of the suffixes png, jpg, jpeg and dcm.

    Noted and got over, or refused when `strict`: a file name that fits no pattern (row skipped), a patient
    column that disagrees with the file's name (the column wins), a word that is not NIH's (kept in column
    `Finding Labels`), an age that is none or over 120 years (null), an image that is not there (row left
    out), and two images of one name (the first in path order is taken).

    Raises:
        StudiesError: an unreadable table, no rows, a missing column, two rows for one film, or nothing left.
    """
    notices = Notices(strict)
    offered = read_source_csv(csv, SOURCE_COLUMNS)
    films = _films(offered, notices)
    films["path"] = films["Image Index"]
    layout = "the images were not looked for; the paths are the table's own names"
    if check_images:
        films = _find_images(films, images, notices)
        layout = "the images were found by name below the images folder"
    return Imported(_studies(films, notices), tuple(notices.met), len(offered), layout)


def _films(offered: pd.DataFrame, notices: Notices) -> pd.DataFrame:
    """The rows whose file name says what they are, with patient and study number beside them."""
    parts = offered["Image Index"].str.extract(_FILE)
    lost = parts["number"].isna()
    notices.add("path", "rows skipped, their file is not like 00000427_003.png", offered["Image Index"][lost])
    films = pd.concat([offered, parts], axis=1)
    films = films[~lost].reset_index(drop=True)
    if films.empty:
        raise StudiesError("expected files like 00000427_003.png in column 'Image Index', got not one")
    patient = films["Patient ID"].str.strip().str.zfill(8)
    notices.add(
        "patient",
        "files named for another patient than column Patient ID says",
        films["Image Index"][patient != films["patient"]],
    )
    number = films["number"].astype(int).astype(str)
    films["patient_id"] = "patient" + patient
    films["study_id"] = films["patient_id"] + "/study" + number
    repeated = films["study_id"].duplicated()
    if repeated.any():
        raise StudiesError(f"expected one row a film, got two for {films.loc[repeated, 'study_id'].iloc[0]}")
    return films


def _find_images(films: pd.DataFrame, images: Path, notices: Notices) -> pd.DataFrame:
    paths_of = _paths_by_name(images)
    stems = films["Image Index"].str.rsplit(".", n=1).str[0]
    found = [
        paths_of.get(name) or paths_of.get(stem) or [] for name, stem in zip(films["Image Index"], stems, strict=True)
    ]
    films["path"] = [paths[0] if paths else "" for paths in found]
    several = [len(paths) > 1 for paths in found]
    notices.add("several images", "images that are there more than once, the first taken", films["path"][several])
    there = films["path"].ne("")
    notices.add(
        "missing image",
        "rows left out, their image is not below the images folder",
        films["Image Index"][~there],
    )
    if not there.any():
        raise StudiesError(f"expected the images of the table below {str(images)!r}, got not one of them")
    return films[there].reset_index(drop=True)


def _paths_by_name(images: Path) -> dict[str, list[str]]:
    """Return where each file lies below the folder, by its name and by its name without suffix, in path order."""
    found: dict[str, list[str]] = {}
    for path in sorted(_files(images), key=lambda path: (path.parent.parts, path.name)):
        if path.suffix.lower() in _SUFFIXES:
            found.setdefault(path.name, []).append(path.as_posix())
            found.setdefault(path.stem, []).append(path.as_posix())
    return found


def _files(images: Path) -> Iterator[PurePath]:
    """Yield the ways from the folder to all files below."""
    if isinstance(images, Place):
        yield from map(PurePosixPath, images.files_below())
        return
    for folder, _, names in os.walk(images):
        inside = Path(folder).relative_to(images)
        yield from (inside / name for name in names)


def _studies(films: pd.DataFrame, notices: Notices) -> pa.Table:
    known = {*SAME_WORDS, *OTHER_WORDS, ""}
    named = [[word.strip() for word in row] for row in films["Finding Labels"].str.split("|")]
    strange = [word for row in named for word in row if word not in known]
    notices.add("word", "finding labels that are not NIH's", strange)
    sources = {ours: theirs for theirs, ours in SAME_WORDS.items()}
    core = {
        "study_id": as_text(films["study_id"]),
        "patient_id": as_text(films["patient_id"]),
        "frontal_path": as_text(films["path"]),
        "lateral_path": pa.nulls(len(films), pa.string()),
        "other_paths": pa.array([[]] * len(films), type=pa.list_(pa.string())),
        "projection": as_text(films["View Position"].str.strip()),
        "sex": as_text(films["Patient Gender"].str.strip().replace(_SEX)),
        "age": as_ages(films["Patient Age"], films["study_id"], notices),
        "split": pa.nulls(len(films), pa.string()),
    }
    findings = {name: _marks(named, sources.get(name)) for name in FINDINGS}
    marks = {name: _marks(named, name) for name in OTHER_WORDS}
    words = {"Finding Labels": as_text(films["Finding Labels"])}
    extra = {_NAMES.get(name, name): column for name, column in as_extra(films, OTHER_WORDS).items()}
    return as_studies(pa.table(core | findings | marks | words | extra))


def _marks(named: list[list[str]], word: str | None) -> pa.Array:
    return pa.array([1 if word in row else None for row in named], type=pa.int8())
