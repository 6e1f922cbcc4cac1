"""A folder of simulated studies in CheXpert's layout, written by several processes: the same bytes for a seed."""

import csv
import io
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import cv2

from scripts.chest_phantom.findings import SIMULATED_FINDINGS
from scripts.chest_phantom.patient import BOX_COLUMNS, FILM_COLUMNS, TRUTH_COLUMNS, Row, take_patient

VERSION = 3
"""Raised when the same seed gives other bytes than before."""

_ORDER = "phantom.json"  # what the folder was ordered to hold
_DONE = "parts"  # rows of finished patients; gone once the collection is whole


@dataclass(frozen=True)
class CollectionSummary:
    """What a collection holds."""

    patients: int
    studies: int
    films: int
    without_lateral: int  # studies
    clear: int  # studies without any simulated finding
    findings: dict[str, int]  # studies with each simulated finding


def write_collection(
    out: Path,
    patients: int,
    seed: int,
    jobs: int,
    on_progress: Callable[[int], None] | None = None,
    *,
    dicom: bool = False,
) -> CollectionSummary:
    """Return the counts of the collection it writes to `out`.

    Writes train.csv (CheXpert's 19 columns, Path relative to `out`), the films, boxes.csv (pixels, half-open),
    ground_truth.csv (every simulated finding of every study, 0 or 1), and phantom.json. An unfinished folder is
    completed, a finished one left as it is. The bytes depend on seed and patient alone, not on `jobs`.

    Args:
        patients: at least 1.
        jobs: processes; 1 works in this one.
        on_progress: called with the number of patients done so far.
        dicom: films as DICOM in the place of JPEG.

    Raises:
        FileExistsError: `out` holds something else than this collection.
        ValueError: patients or jobs under 1, or a negative seed.
    """
    if patients < 1 or jobs < 1 or seed < 0:
        raise ValueError(f"expected patients, jobs >= 1, seed >= 0; got {patients}, {jobs}, {seed}")
    report = on_progress or (lambda done: None)
    order: dict[str, int | str] = {"version": VERSION, "seed": seed, "patients": patients}
    _claim(out, order | ({"films": "DICOM"} if dicom else {}))
    if not _is_whole(out):
        missing = [n for n in range(1, patients + 1) if not _part(out, n).exists()]
        report(patients - len(missing))
        for done, _ in enumerate(_take_all(out, seed, missing, jobs, dicom), start=patients - len(missing) + 1):
            report(done)
        _join(out, patients)
    report(patients)
    return _summary(out)


def _claim(out: Path, order: dict[str, int | str]) -> None:
    """Make `out` this collection's folder, or refuse it."""
    note = out / _ORDER
    if note.exists():
        earlier = json.loads(note.read_text("utf-8"))
        if earlier != order:
            raise FileExistsError(f"{out}: expected the collection {order}, got {earlier}; choose another folder")
    elif out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out}: expected an empty folder or an unfinished collection; choose another folder")
    else:
        _replace(note, json.dumps(order, indent=1).encode())


def _is_whole(out: Path) -> bool:
    if not (out / "train.csv").exists():
        return False
    return all((out / row["Path"]).exists() for row in _rows(out / "train.csv"))


def _take_all(out: Path, seed: int, numbers: list[int], jobs: int, dicom: bool) -> Iterator[int]:
    """Yield each patient's number once its films and rows are on disk."""
    if jobs == 1 or len(numbers) < 2:
        yield from (_take(out, seed, number, dicom) for number in numbers)
        return
    context = multiprocessing.get_context("spawn")  # forking under other libraries' threads can hang
    pool = ProcessPoolExecutor(min(jobs, len(numbers)), context, initializer=cv2.setNumThreads, initargs=(1,))
    try:
        for future in as_completed([pool.submit(_take, out, seed, number, dicom) for number in numbers]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _take(out: Path, seed: int, number: int, dicom: bool) -> int:
    patient = take_patient(seed, number, dicom=dicom)
    for path, data in patient.films.items():
        _replace(out / path, data)
    rows = {"train": patient.film_rows, "boxes": patient.box_rows, "ground_truth": patient.truth_rows}
    _replace(_part(out, number), json.dumps(rows).encode())  # last: it says that the films are there
    return number


def _part(out: Path, number: int) -> Path:
    return out / _DONE / f"{number:05d}.json"


def _join(out: Path, patients: int) -> None:
    """Write the tables from all patients' rows, train.csv last, and drop the parts."""
    parts = [_part(out, number) for number in range(1, patients + 1)]
    rows = [json.loads(part.read_text("utf-8")) for part in parts]
    for name, columns in (("boxes", BOX_COLUMNS), ("ground_truth", TRUTH_COLUMNS), ("train", FILM_COLUMNS)):
        table = _table(columns, (row for patient in rows for row in patient[name]))
        _replace(out / f"{name}.csv", table)
    for part in parts:
        part.unlink()
    (out / _DONE).rmdir()


def _table(columns: Iterable[str], rows: Iterable[Row]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode()


def _replace(path: Path, data: bytes) -> None:
    """Write a file so that it is there wholly or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".tmp")
    beside.write_bytes(data)
    os.replace(beside, path)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _summary(out: Path) -> CollectionSummary:
    films, truth = _rows(out / "train.csv"), _rows(out / "ground_truth.csv")
    laterals = sum(row["Frontal/Lateral"] == "Lateral" for row in films)
    return CollectionSummary(
        patients=len({row["study_id"].split("/")[0] for row in truth}),
        studies=len(truth),
        films=len(films),
        without_lateral=len(truth) - laterals,
        clear=sum(all(row[name] == "0" for name in SIMULATED_FINDINGS) for row in truth),
        findings={name: sum(row[name] == "1" for row in truth) for name in SIMULATED_FINDINGS},
    )
