"""CheXpert's tables (`train.csv`, `valid.csv`) and any table written in their layout, as a table of studies.

No image is opened: that a file is there is all that is asked.
"""

import re
from collections.abc import Sequence
from os.path import isfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from index.errors import StudiesError
from index.importing.source import EXTRA, Imported, Notices, as_ages, as_extra, as_text, extra_names, read_source_csv
from index.storage.places import Place
from index.table.studies import FINDINGS, as_studies

SOURCE_COLUMNS = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *FINDINGS)
_PATH = re.compile(
    r"^(?P<prefix>(?:.*/)?)(?P<split>train|valid|test)/(?P<patient>patient\d+)/(?P<study>study\d+)"
    r"/view(?P<number>\d{1,9})_(?P<named>frontal|lateral)\.(?i:jpg|jpeg|png|dcm)$"
)
_LABELS = {"": None, "1": 1, "1.0": 1, "0": 0, "0.0": 0, "-1": -1, "-1.0": -1}


def import_chexpert(
    csv: Path | Sequence[Path], images: Path, *, strict: bool = False, check_images: bool = True
) -> Imported:
    """Return one row a study of one CheXpert table, or of several (train and valid) read as one.

    The lowest view number of each view is the study's frontal or lateral, further films go to `other_paths`.
    `images` is the folder above the data set's (the paths stay as they are) or the data set's folder itself
    (the prefix is taken off); `layout` says which. The projection is `AP/PA` of the frontal (of
    a study without one, of the lateral) as it stands.

    Noted and got over, or refused when `strict`: a path that fits no pattern (row skipped); a view column
    that is blank or disagrees with the file's name (the column wins, if it says something); an age that is
    none (null); rows of one study that differ (the frontal's labels, sex, age and extra columns are kept);
    an image that is not there (film left out), and a study that loses its last film by it.

    A further column that holds 1, 0, -1 and blank alone is one of labels; others pass through as text or numbers.

    Raises:
        StudiesError: an unreadable table, no rows, a missing column, a label outside {1, 0, -1, blank},
            two rows for one view, one study in two splits, no image folder, or nothing left to import.
    """
    paths = [csv] if isinstance(csv, Path) else list(csv)
    notices = Notices(strict)
    tables = [read_source_csv(path, SOURCE_COLUMNS) for path in paths]
    offered = pd.concat(tables, ignore_index=True).fillna("")  # null where one table lacks an extra column
    films = _films(offered, notices)
    layout = _settle_prefix(films, images, check_images)
    if check_images:
        films = _drop_missing(films, images, notices)
    return Imported(_studies(films, notices), tuple(notices.met), len(offered), layout)


def _films(offered: pd.DataFrame, notices: Notices) -> pd.DataFrame:
    """The rows whose path says what they are, with prefix, split, ids, view and number beside them."""
    parts = offered["Path"].str.extract(_PATH)
    lost = parts["study"].isna()
    notices.add(
        "path",
        "rows skipped, their path is not like train/patient1/study1/view1_frontal.jpg",
        offered.loc[lost, "Path"],
    )
    films = pd.concat([offered, parts], axis=1)[~lost].reset_index(drop=True)
    if films.empty:
        raise StudiesError("expected paths like train/patient00001/study1/view1_frontal.jpg, got not one")
    films["study_id"] = films["patient"] + "/" + films["study"]
    films["number"] = films["number"].astype("int64")
    films["view"] = _views(films, notices)
    _refuse_repeats(films)
    return films


def _views(films: pd.DataFrame, notices: Notices) -> pd.Series:
    said = films["Frontal/Lateral"].str.strip().str.lower()
    views = said.where(said.isin(["frontal", "lateral"]), films["named"])
    notices.add(
        "view",
        "files named for another view than column Frontal/Lateral says",
        films.loc[said != films["named"], "Path"],
    )
    return views


def _refuse_repeats(films: pd.DataFrame) -> None:
    splits = films[["study_id", "split"]].drop_duplicates()
    torn = splits.loc[splits["study_id"].duplicated(), "study_id"]
    if len(torn):
        raise StudiesError(f"expected a study in one split, got {torn.iloc[0]} in two; import them apart")
    repeated = films.duplicated(["study_id", "named", "number"])
    if repeated.any():
        raise StudiesError(f"expected one row a view, got two for {films.loc[repeated, 'Path'].iloc[0]}")


def _settle_prefix(films: pd.DataFrame, images: Path, check_images: bool) -> str:
    """Set column "path", relative to the image root, and say which of the two layouts was found."""
    films["path"] = films["Path"]
    folders = films[["prefix", "split"]].drop_duplicates()
    if all((images / prefix / split).is_dir() for prefix, split in folders.itertuples(index=False)):
        return "the paths of the table lead from the images folder as they stand"
    if all((images / split).is_dir() for split in folders["split"]):
        lengths = films["prefix"].str.len()
        films["path"] = [path[n:] for path, n in zip(films["Path"], lengths, strict=True)]
        return "the images folder is the data set's own; the prefix of the paths was taken off"
    prefix, split = folders.iloc[0]
    if check_images:
        raise StudiesError(
            f"expected folder {prefix}{split} or {split} below {str(images)!r}, got neither; "
            "give the data set's folder or the one above it, or import without looking for the images"
        )
    return "the images were not found; the paths are the table's own"


def _drop_missing(films: pd.DataFrame, images: Path, notices: Notices) -> pd.DataFrame:
    if isinstance(images, Place):  # one listing, where a question a film would be as many requests
        there = films["path"].isin(images.files_below()).to_numpy()
    else:
        root = str(images) + "/"
        there = np.fromiter((isfile(root + path) for path in films["path"]), dtype=bool, count=len(films))
    notices.add("missing image", "images of the table are not under the images folder", films.loc[~there, "path"])
    kept = films[there].reset_index(drop=True)
    gone = films.loc[~films["study_id"].isin(kept["study_id"]), "study_id"].unique()
    notices.add("study without image", "studies left out, not one of their images is there", gone)
    if kept.empty:
        raise StudiesError(f"expected the images of the table below {str(images)!r}, got not one of them")
    return kept


def _studies(films: pd.DataFrame, notices: Notices) -> pa.Table:
    """One row a study, in the order of first appearance."""
    films["code"] = pd.factorize(films["study_id"])[0]
    ordered = films.sort_values(["code", "view", "number", "path"], ignore_index=True)  # frontal before lateral
    leads = ordered.drop_duplicates("code").reset_index(drop=True)  # row n is the leading film of study n
    _note_differences(ordered, leads, notices)
    chosen = ~ordered.duplicated(["code", "view"]).to_numpy()
    paths = {
        view: _one_path(ordered[chosen & ordered["view"].eq(view).to_numpy()], len(leads))
        for view in ("frontal", "lateral")
    }
    core = {
        "study_id": as_text(leads["study_id"]),
        "patient_id": as_text(leads["patient"]),
        "frontal_path": paths["frontal"],
        "lateral_path": paths["lateral"],
        "other_paths": _lists(ordered[~chosen], len(leads)),
        "projection": as_text(leads["AP/PA"].str.strip()),
        "sex": as_text(leads["Sex"].str.strip()),
        "age": as_ages(leads["Age"], leads["study_id"], notices),
        "split": as_text(leads["split"]),
    }
    findings = {name: _labels(ordered, leads, name) for name in FINDINGS}
    return as_studies(pa.table(core | findings | _further(leads)))


def _further(leads: pd.DataFrame) -> dict[str, pa.Array]:
    """Return the columns that CheXpert has not; one of 1, 0, -1 and blank alone is of labels, and kept as int8."""
    labels = {name: _as_labels(leads[EXTRA + name]) for name in as_extra(leads)}
    return as_extra(leads) | {name: column for name, column in labels.items() if column is not None}


def _as_labels(texts: pd.Series) -> pa.Array | None:
    texts = texts.str.strip()
    known = texts.isin(_LABELS).all() and texts.ne("").any()
    return pa.array([_LABELS[text] for text in texts], type=pa.int8()) if known else None


def _note_differences(ordered: pd.DataFrame, leads: pd.DataFrame, notices: Notices) -> None:
    compared = ["Sex", "Age", *FINDINGS, *extra_names(ordered)]
    codes = ordered["code"].to_numpy()
    differing: dict[str, list[str]] = {}
    for name in compared:
        differs = ordered[name].to_numpy() != leads[name].to_numpy()[codes]
        for study in ordered.loc[differs, "study_id"].unique():
            differing.setdefault(study, []).append(name.removeprefix(EXTRA))
    notices.add(
        "rows differ",
        "studies whose rows differ, the first frontal's kept",
        [f"{study}: {' + '.join(names)}" for study, names in differing.items()],
    )


def _labels(ordered: pd.DataFrame, leads: pd.DataFrame, name: str) -> pa.Array:
    outside = ~ordered[name].str.strip().isin(_LABELS)
    if outside.any():
        film = ordered[outside].iloc[0]
        raise StudiesError(f"{name}: expected 1, 0, -1 or blank, got {film[name]!r} at {film['Path']}")
    return pa.array([_LABELS[text] for text in leads[name].str.strip()], type=pa.int8())


def _one_path(films: pd.DataFrame, studies: int) -> pa.Array:
    paths = np.full(studies, None, dtype=object)
    paths[films["code"].to_numpy()] = films["path"].to_numpy()
    return pa.array(paths, type=pa.string())


def _lists(films: pd.DataFrame, studies: int) -> pa.Array:
    counts = np.bincount(films["code"].to_numpy(), minlength=studies)
    offsets: npt.NDArray[np.int32] = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    values = pa.array(films["path"].astype(object), type=pa.string())
    return pa.ListArray.from_arrays(pa.array(offsets), values)
