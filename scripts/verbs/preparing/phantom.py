"""`precedent phantom`: write a collection of simulated chest films, or a picture of every finding.

precedent phantom --patients 300 --seed 7 --out demo/phantom
"""

import os
from dataclasses import asdict
from pathlib import Path

import click
import cv2
from rich.table import Table

from scripts.chest_phantom.collection import CollectionSummary, write_collection
from scripts.chest_phantom.contact_sheet import contact_sheet
from scripts.terminal import progress_bar, say_json, show


@click.command("phantom")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the films and their table.")
@click.option(
    "--patients", type=click.IntRange(1, 99_999), default=300, show_default=True, help="Patients to simulate."
)
@click.option("--seed", type=click.IntRange(0), default=7, show_default=True, help="Seed of all that is drawn.")
@click.option("--jobs", type=click.IntRange(1), default=None, help="Processes (default: one for each core).")
@click.option("--dicom", is_flag=True, help="Write the films as DICOM with whole headers, as a device would send them.")
@click.option(
    "--contact-sheet",
    "sheet",
    type=click.Path(path_type=Path),
    help="Write one picture that shows every finding to this .png or .jpg file.",
)
@click.option("--boxes", is_flag=True, help="Outline the findings on the contact sheet.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
def command(
    out: Path | None,
    patients: int,
    seed: int,
    jobs: int | None,
    dicom: bool,
    sheet: Path | None,
    boxes: bool,
    as_json: bool,
) -> None:
    """Write simulated chest films with known findings, in CheXpert's layout.

    The same seed gives the same files. To go on after an interruption, run the same command again.

        precedent phantom --patients 300 --seed 7 --out demo/phantom
    """
    if out is None and sheet is None:
        raise click.UsageError("expected --out FOLDER or --contact-sheet FILE.png, got neither")
    if sheet is not None:
        _write_sheet(sheet, seed, boxes)
    summary = None if out is None else _write(out, patients, seed, jobs or os.cpu_count() or 1, dicom)
    if as_json:
        pictures = {"contact_sheet": str(sheet)} if sheet is not None else {}
        say_json({**(asdict(summary) if summary is not None else {}), **pictures})
    elif summary is not None:
        show(_table(summary))


def _write(out: Path, patients: int, seed: int, jobs: int, dicom: bool) -> CollectionSummary:
    with progress_bar("patients") as progress:
        task = progress.add_task("phantoms", total=patients)
        return write_collection(
            out, patients, seed, jobs, lambda done: progress.update(task, completed=done), dicom=dicom
        )


def _write_sheet(path: Path, seed: int, boxes: bool) -> None:
    done, data = cv2.imencode(path.suffix or ".png", contact_sheet(seed, boxes))
    if not done:
        raise OSError(f"{path}: expected a name that ends in .png or .jpg")
    path.write_bytes(data.tobytes())


def _table(summary: CollectionSummary) -> Table:
    table = Table(title=f"{summary.patients} patients, {summary.studies} studies, {summary.films} films")
    table.add_column("Finding")
    table.add_column("Studies", justify="right")
    for name, count in summary.findings.items():
        table.add_row(name, str(count))
    table.add_row("none of these", str(summary.clear))
    table.add_row("without a lateral", str(summary.without_lateral))
    return table
