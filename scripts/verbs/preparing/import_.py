"""`precedent import`: turn the tables of a data set, or DICOM films, into one table of studies, vectors into an export.

precedent import table mimic-cxr-jpg FOLDER --out studies.parquet
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import click
import pyarrow.compute as pc

from encoder.films.body_part import is_elsewhere
from encoder.films.dicom_elements import read_header
from index.importing.crosswalk import Crosswalk
from index.importing.dicom import import_dicom
from index.importing.imported_vectors import ImportedVectors, Source, gathered, import_vectors
from index.importing.join import join_studies, sets_in_two
from index.importing.mapped import import_table
from index.importing.mapping import FLAT, is_table, load_mapping, mapping_names, shipped_text
from index.importing.pseudonyms import Pseudonyms, load_key, make_key, require_apart
from index.importing.source import Imported, NothingUsable, Notice, Notices
from index.importing.vector_files import ID_COLUMNS, Reader, read_vectors
from index.printable import visible
from index.search.texts import Texts
from index.storage.places import Place, place
from index.table.studies import load_studies, save_studies, unknown_patients
from scripts.options.body_parts import ignored_parts
from scripts.options.pacs import packages_of_pacs
from scripts.options.places import Anywhere, Here
from scripts.terminal import counted, progress_bar, say, say_json


def _in_a_folder(_context: click.Context, _parameter: click.Parameter, out: Path) -> Path:
    """Refuse before the long work what could not be written after it."""
    if isinstance(out, Place):
        return out
    if not out.parent.is_dir():
        raise click.BadParameter(
            f"expected an existing folder for {out.name!r}, got {str(out.parent)!r}; make it first"
        )
    if out.is_dir():
        raise click.BadParameter(f"expected a file such as studies.parquet, got the folder {str(out)!r}")
    return out


def _add_shared_options(function: Callable[..., Any]) -> Callable[..., Any]:
    out = click.option(
        "--out",
        type=Anywhere(),
        required=True,
        callback=_in_a_folder,
        help="Parquet file to write.",
    )
    strict = click.option("--strict", is_flag=True, help="Treat warnings as errors.")
    as_json = click.option("--json", "as_json", is_flag=True, help="Print counts and warnings as JSON.")
    return out(strict(as_json(function)))


_unchecked = click.option("--no-check-images", is_flag=True, help="Do not check that the image files exist.")


def _images(*, required: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    what = "Folder of the images." if required else "Folder that the paths lead from; default: FOLDER."
    return click.option("--images", type=Anywhere(), required=required, help=what)


@click.group()
def command() -> None:
    """Turn the tables of a data set, or DICOM films, into one table of studies; take vectors of another encoder."""


def _list(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        names = [(name, load_mapping(name)) for name in mapping_names()]
        wide = max(len(name) for name, _ in names)
        say(*(f"{name:<{wide}}  {mapping.licence}" for name, mapping in names))
        context.exit()


def _print(context: click.Context, _parameter: click.Parameter, name: str | None) -> None:
    if name is not None:
        say(*shipped_text(name).splitlines())
        context.exit()


@command.command()
@click.argument("mapping", metavar="NAME|MAPPING.toml|TABLE")
@click.argument("folder", type=Anywhere())
@_images(required=False)
@_unchecked
@click.option("--list", is_flag=True, is_eager=True, expose_value=False, callback=_list, help="Name the mappings.")
@click.option(
    "--print", metavar="NAME", is_eager=True, expose_value=False, callback=_print, help="Print one, to copy and change."
)
@_add_shared_options
def table(
    mapping: str,
    folder: Path,
    images: Path | None,
    no_check_images: bool,
    out: Path,
    strict: bool,
    as_json: bool,
) -> None:
    """Import the tables of a data set in FOLDER; a mapping says what their columns mean.

    --list names the mappings of published data sets; a TOML file of your own is one too. A TABLE (.csv or .parquet)
    needs none if its columns are called path, patient_id, study_id, view, projection, sex, age, split, and findings as
    in CheXpert. Only path is required; other columns are kept.

    \b
    precedent import table --list
    precedent import table mimic-cxr-jpg mimic/ --out studies.parquet
    precedent import table films.csv . --out studies.parquet
    """
    flat = is_table(mapping)
    imported = import_table(
        load_mapping(FLAT if flat else mapping),
        folder,
        images=images,
        tables=[place(mapping)] if flat else (),
        strict=strict,
        check_images=not no_check_images,
        read_header=read_header,
        watch=_headers_watched,
    )
    _save(imported, out, as_json)


@command.command()
@click.argument("csv", nargs=-1, required=True, type=Anywhere())
@_images(required=True)
@_unchecked
@_add_shared_options
def chexpert(
    csv: tuple[Path, ...], images: Path, no_check_images: bool, out: Path, strict: bool, as_json: bool
) -> None:
    """Import CheXpert's train.csv and valid.csv, or tables of that layout.

    --images is the folder above CheXpert-v1.0-small/, or that folder itself.

    \b
    precedent import chexpert train.csv valid.csv --images . --out studies.parquet
    """
    imported = import_table(
        load_mapping("chexpert"), images, tables=csv, strict=strict, check_images=not no_check_images
    )
    _save(imported, out, as_json)


@command.command()
@click.argument("csv", type=Anywhere())
@_images(required=True)
@_unchecked
@_add_shared_options
def nih(csv: Path, images: Path, no_check_images: bool, out: Path, strict: bool, as_json: bool) -> None:
    """Import NIH ChestX-ray14's Data_Entry_2017.csv; images are found by name below --images.

    train_val_list.txt and test_list.txt beside the table are its split.

    \b
    precedent import nih Data_Entry_2017.csv --images . --out studies.parquet
    """
    imported = import_table(
        load_mapping("nih"), csv.parent, images=images, tables=[csv], strict=strict, check_images=not no_check_images
    )
    _save(imported, out, as_json)


def _film_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command what an import of DICOM films is told, wherever they come from."""
    options = (
        click.option(
            "--unknown-view",
            type=click.Choice(["frontal", "skip"]),
            default="frontal",
            show_default=True,
            help="A film whose header does not state its view: take it as a missing frontal film, or skip it.",
        ),
        ignored_parts,
        click.option(
            "--keep-burned-in", is_flag=True, help="Keep films whose header says that text is burned into the picture."
        ),
        click.option(
            "--pseudonymise",
            "key_file",
            type=Here(),
            metavar="KEYFILE",
            help="Replace patient and study ids by hashes under the secret key in this file, and ages over 89 by 90.",
        ),
        click.option("--new-key", is_flag=True, help="Create KEYFILE with a new key."),
        click.option("--copy-to", type=Here(), help="Copy each film to this folder, named by pseudonym, pixels only."),
        click.option(
            "--keep-paths", is_flag=True, help="Make no copies: the table keeps the archive's own file names."
        ),
        click.option(
            "--crosswalk",
            type=Here(),
            metavar="FILE",
            help="Note in this file, encrypted under the key, which StudyInstanceUID each pseudonym stands for.",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


@command.command()
@click.argument("folder", type=Here())
@click.option(
    "--ids-from",
    metavar="PATTERN",
    help="Take ids from the paths below FOLDER, e.g. '{patient}/{study}/*'; ** stands for any folders.",
)
@_film_options
@_add_shared_options
def dicom(folder: Path, ids_from: str | None, out: Path, strict: bool, as_json: bool, **options: Any) -> None:
    """Import every DICOM film below FOLDER, grouped by PatientID and StudyInstanceUID.

    If a header names the issuer of the patient's id, the patient is called ID^^^ISSUER.

    \b
    precedent import dicom films/ --out studies.parquet
    precedent import dicom nameless/ --out studies.parquet --ids-from '{patient}/{study}/**'
    precedent import dicom films/ --out table/studies.parquet --pseudonymise keys/site.key --new-key --copy-to copies/
    """
    _import_films(folder, _pseudonymised(folder, out, **options), out, as_json, ids_from=ids_from, strict=strict)


@command.command()
@click.argument("url")
@click.option(
    "--films",
    "folder",
    type=Here(file_okay=False),
    required=True,
    help="Folder for the films; films that are in it already are not fetched again.",
)
@click.option("--since", type=click.DateTime(["%Y-%m-%d"]), metavar="DATE", help="Only studies of this day or later.")
@click.option(
    "--where",
    multiple=True,
    metavar="KEYWORD=VALUE",
    help="Only studies for which this holds in the PACS, e.g. ModalitiesInStudy=DX. Repeatable.",
)
@click.option(
    "--audit", type=Here(), metavar="FILE", help="Write into this file which studies were fetched, and from where."
)
@_film_options
@_add_shared_options
def dicomweb(
    url: str,
    folder: Path,
    since: datetime | None,
    where: tuple[str, ...],
    audit: Path | None,
    out: Path,
    strict: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Fetch films from a PACS into a folder and import that folder, as `import dicom` does.

    URL is the address of the DICOMweb service of the PACS. Credentials come from the environment: PRECEDENT_PACS_TOKEN,
    or PRECEDENT_PACS_USER and PRECEDENT_PACS_PASSWORD; PRECEDENT_PACS_CA names a file of certificates to trust,
    PRECEDENT_PACS_CERT a client certificate with its key. After an interruption, run the same command again.

    \b
    precedent import dicomweb https://pacs:8042/dicom-web --films films/ --out studies.parquet
    precedent import dicomweb https://pacs:8042/dicom-web --films films/ --out studies.parquet --since 2026-01-01 \\
        --where ModalitiesInStudy=DX
    """
    with packages_of_pacs():
        from scripts.pacs.audit import PacsAudit
        from scripts.pacs.dicomweb import fetch, parse_where
        from scripts.pacs.rest import Pacs
    pacs, asked = Pacs(url), parse_where(where, since)
    folder.mkdir(exist_ok=True)
    settled = _pseudonymised(folder, out, **options)
    notices = Notices(strict, shown=3 if settled["pseudonyms"] is None else 0)
    pseudonyms = settled["pseudonyms"]

    def note(study: str, films: int) -> None:
        named = study if pseudonyms is None else pseudonyms.of("study", study)
        lines.write("fetched", source=pacs.host, studies=[named], films=films)

    with (
        closing(PacsAudit(audit)) as lines,
        progress_bar("studies") as bar,
        lines.around("import dicomweb", source=pacs.host, asked=sorted(asked)) as outcome,
    ):
        advance = partial(bar.advance, bar.add_task("Fetching films", total=None))
        outcome["films"] = fetched = fetch(pacs, asked, folder, notices, advance=advance, fetched=note)
    say(f"{folder}: {fetched:,} films fetched", err=True)
    _import_films(folder, settled, out, as_json, further=notices.met, strict=strict)


def _pseudonymised(
    folder: Path,
    out: Path,
    *,
    ignored: frozenset[str],
    key_file: Path | None,
    new_key: bool,
    copy_to: Path | None,
    keep_paths: bool,
    crosswalk: Path | None,
    **options: Any,
) -> dict[str, Any]:
    """What `import_dicom` is told, the pseudonyms ready and all refused that would be refused after the long work."""
    options |= {
        "elsewhere": partial(is_elsewhere, ignored=ignored),
        "remarks": partial(_remarks, ignored),
        "watch": _watched,
        "pseudonyms": None,
    }
    if key_file is None:
        if new_key or copy_to or keep_paths or crosswalk:
            raise click.UsageError(
                "expected --pseudonymise KEYFILE with --new-key, --copy-to, --keep-paths and --crosswalk"
            )
        return options
    if (copy_to is None) != keep_paths:
        raise click.UsageError(
            "expected one of --copy-to and --keep-paths: names of files and folders can name patients"
        )
    options["pseudonyms"] = _pseudonyms(key_file, new_key, folder, out.parent, copy_to)
    if copy_to is not None:
        options["copies"] = partial(_copies, copy_to, ignored)
    if crosswalk is not None:
        require_apart(crosswalk, [folder, out.parent, *([copy_to] if copy_to else [])])
        options["origins"] = Crosswalk.open(crosswalk, load_key(key_file), make=True).add
    return options


def _import_films(
    folder: Path, options: dict[str, Any], out: Path, as_json: bool, *, further: Sequence[Notice] = (), **more: Any
) -> None:
    """Import the films of a folder and save their table; `further` notices stand before those of the import."""
    try:
        imported = import_dicom(folder, read_header, **options, **more)
    except NothingUsable as refusal:
        if not as_json:
            raise
        _say_json(None, {"images": refusal.images, "studies": 0}, None, (*further, *refusal.notices), str(refusal))
        say(f"precedent: {refusal}", err=True)
        sys.exit(1)
    _save(replace(imported, notices=(*further, *imported.notices)), out, as_json)


def _remarks(parts: frozenset[str], file: Path) -> list[str]:
    from encoder.films.dicom import film_notes  # OpenCV is loaded by those who import films

    return film_notes(file, parts)


def _pseudonyms(key_file: Path, new_key: bool, folder: Path, out: Path, copy_to: Path | None) -> Pseudonyms:
    """The pseudonyms under the key of a file that lies in nothing that is read or passed on."""
    require_apart(key_file, [folder, out, *([copy_to] if copy_to else [])])
    if copy_to is not None:
        require_apart(copy_to, [folder])
        require_apart(folder, [copy_to])
    if new_key:
        make_key(key_file)
    return Pseudonyms(load_key(key_file))


def _copies(folder: Path, parts: frozenset[str], films: Sequence[tuple[Path, str]]) -> Iterator[str | None]:
    from scripts.work.bare_copies import copy_untagged  # OpenCV is loaded by those who copy

    return copy_untagged(folder, films, parts)


@command.command()
@click.argument("tables", nargs=-1, required=True, metavar="NAME=TABLE...")
@click.option(
    "--absent",
    multiple=True,
    metavar="NAME",
    help="In this table a blank label means that the finding is absent: write 0.",
)
@click.option("--out", type=Anywhere(), required=True, callback=_in_a_folder, help="File to write.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
def join(tables: tuple[str, ...], absent: tuple[str, ...], out: Path, as_json: bool) -> None:
    """Join several tables of studies into one. NAME/ is put before the ids of each table.

    All tables must have been imported with the same --images folder.

    \b
    precedent import join nih=nih.parquet chexpert=chexpert.parquet --absent nih --out all.parquet
    """
    named = dict(_named(word) for word in tables)
    if len(named) < len(tables):
        raise click.UsageError("expected each NAME once")
    loaded = {name: load_studies(path) for name, path in named.items()}
    warnings = sets_in_two(loaded)
    joined = join_studies(loaded, absent)
    save_studies(joined, out)
    patients = len(joined["patient_id"].unique())
    if as_json:
        say_json({"out": str(out), "patients": patients, "studies": joined.num_rows, "warnings": warnings})
        return
    for warning in warnings:
        say(f"warning: {warning}", err=True)
    say(f"{out}: {joined.num_rows:,} studies of {patients:,} patients")


@command.command()
@click.argument("files", nargs=-1, required=True, type=Here(), metavar="VECTORS...")
@click.option("--studies", type=Anywhere(), required=True, help="Table of the studies that the vectors are of.")
@click.option("--model", required=True, metavar="NAME[@REVISION]", help="The encoder that made all of them.")
@click.option(
    "--ids",
    multiple=True,
    type=Here(),
    help="What each row of VECTORS is of: a study_id, or the path or name of a film. A .csv or .parquet, a .npy of "
    "texts, or text of an id a line; once for each of VECTORS.",
)
@click.option("--id-column", help=f"Column of the ids (default: the first of {', '.join(ID_COLUMNS)}).")
@click.option("--column", default="embedding", show_default=True, help="In Parquet: column of the vectors.")
@click.option(
    "--images", type=Anywhere(file_okay=False), help="Image root, so that films can be shown later; none is read now."
)
@click.option(
    "--shard-rows", type=click.IntRange(1), default=2048, show_default=True, help="Studies in each Parquet file."
)
@click.option("--out", type=Anywhere(), required=True, help="Folder for the vectors.")
@click.option("--strict", is_flag=True, help="Treat warnings as errors.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest and warnings as JSON.")
def vectors(
    files: tuple[Path, ...],
    studies: Path,
    model: str,
    ids: tuple[Path, ...],
    id_column: str | None,
    column: str,
    images: Path | None,
    shard_rows: int,
    out: Path,
    strict: bool,
    as_json: bool,
) -> None:
    """Import VECTORS of another encoder as an export, which index, search, probe, evaluate, map and serve take.

    VECTORS are .npy, .npz, .safetensors, .pt (tensors only), .parquet or folders of Parquet. Each vector is divided by
    its norm; a study's is its own, or the mean direction of its frontal and its lateral film's. The fingerprint is that
    of NAME and REVISION: give the same name only to what the same encoder made in the same way. After an interruption,
    run the same command again.

    \b
    precedent import vectors rad-dino/ --studies studies.parquet --model rad-dino --out embeddings/
    precedent import vectors x.npy --ids ids.csv --id-column dicom_id --studies studies.parquet --model me@2 --out e/
    """
    from scripts.work.torch_vectors import read_torch  # torch is loaded by those who import vectors

    source = Source.parse(model)
    table = load_studies(studies)
    readers: dict[str, Reader] = {".pt": read_torch, ".pth": read_torch}
    with progress_bar("rows") as bar:
        reading = partial(bar.advance, bar.add_task("Reading vectors", total=None))
        with gathered(read_vectors(files, ids, id_column, column, readers), out, reading) as gathering:
            writing = partial(bar.advance, bar.add_task("Writing studies", total=table.num_rows))
            imported = import_vectors(
                gathering, source, table, studies, out, shard_rows=shard_rows, strict=strict, advance=writing
            )
    _finish(imported, source, images, as_json)


@command.command()
@click.argument("files", nargs=-1, required=True, type=Here(), metavar="VECTORS...")
@click.option(
    "--model",
    required=True,
    metavar="NAME[@REVISION]",
    help="The model that made the vectors of the texts and of the films.",
)
@click.option(
    "--ids", multiple=True, type=Here(), help="File with the text of each row of VECTORS, if VECTORS do not hold it."
)
@click.option("--id-column", default="text", show_default=True, help="In tables: column of the texts.")
@click.option("--column", default="embedding", show_default=True, help="In Parquet: column of the vectors.")
@click.option("--out", type=Here(), required=True, callback=_in_a_folder, help="Parquet file to write.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
def texts(
    files: tuple[Path, ...], model: str, ids: tuple[Path, ...], id_column: str, column: str, out: Path, as_json: bool
) -> None:
    """Import vectors of texts, to search films by text; one model must have made both kinds of vectors.

    VECTORS are files such as `import vectors` takes. How well the model matches texts and films was not tested.

    \b
    precedent import texts texts.safetensors --model medsiglip@1 --out texts.parquet
    """
    from scripts.work.torch_vectors import read_torch

    source = Source.parse(model)
    named = read_vectors(files, ids, id_column, column, {".pt": read_torch, ".pth": read_torch})
    with gathered(named, out.parent) as gathering:
        known = Texts.of(source.fingerprint(gathering.vectors.shape[1]), gathering.ids.to_pylist(), gathering.vectors)
        known.save(out)
    if as_json:
        say_json({"out": str(out), "texts": len(known.rows), "fingerprint": known.fingerprint})
    else:
        say(f"{out}: {len(known.rows):,} texts of {source}, fingerprint {known.fingerprint[:12]}")


def _finish(imported: ImportedVectors, source: Source, images: Path | None, as_json: bool) -> None:
    from scripts.work.local_export import finish

    if not as_json:
        for notice in imported.notices:
            say(f"warning: {notice}", err=True)
        say(f"{imported.vectors:,} vectors of {source}, by {imported.by}; {imported.norms.sentence()}")
    facts = {"source": asdict(source), "norms": asdict(imported.norms)}
    manifest = finish(imported.folder, images, None, quiet=as_json, why_failed="they have no vector", **facts)
    if as_json:
        warnings = [asdict(notice) for notice in imported.notices]
        say_json(manifest | {"vectors": imported.vectors, "ids_are": imported.by, "warnings": warnings})
    else:
        say(f"fingerprint {manifest['fingerprint'][:12]}: {source}, vectors of {manifest['embedding_dim']:,} numbers")


def _named(word: str) -> tuple[str, Path]:
    name, sign, path = word.partition("=")
    if not sign or not name or not path:
        raise click.UsageError(f"expected a table like nih=nih.parquet, got {word!r}")
    return name, place(path)


def _watched(files: Sequence[Path]) -> Iterable[Path]:
    return counted(files, "Reading headers", "files")


def _headers_watched(paths: Sequence[str]) -> Iterable[str]:
    return counted(paths, "Reading headers", "files")


def _save(imported: Imported, out: Path, as_json: bool) -> None:
    save_studies(imported.table, out)
    counts = _counts(imported)
    if as_json:
        _say_json(str(out), counts, imported.layout, imported.notices)
        return
    for notice in imported.notices:
        say(f"warning: {notice}", err=True)
    phrases = {what.replace("_", " "): f"{count:,} {what.replace('_', ' ')}" for what, count in counts.items()}
    if counts["patients_unknown"] == counts["studies"]:
        phrases["patients"] = "patients unknown"
    figures = ", ".join(said for what, said in phrases.items() if what != "patients unknown")
    say(f"{out}: {figures}, {len(imported.notices)} warnings; {imported.layout}")


def _say_json(
    out: str | None, counts: dict[str, int], layout: str | None, notices: Sequence[Notice], refusal: str | None = None
) -> None:
    warnings = [asdict(notice) for notice in notices]
    error = {} if refusal is None else {"error": {"message": visible(refusal)}}
    say_json({"out": out, **counts, "layout": layout, "warnings": warnings, **error})


def _counts(imported: Imported) -> dict[str, int]:
    frontal, lateral = imported.table["frontal_path"].is_valid(), imported.table["lateral_path"].is_valid()
    return {
        "images": imported.images,
        "patients": len(imported.table["patient_id"].unique()),
        "patients_unknown": unknown_patients(imported.table),
        "studies": len(imported.table),
        "with_both_views": pc.sum(pc.and_(frontal, lateral)).as_py() or 0,
        "lateral_only": pc.sum(pc.invert(frontal)).as_py() or 0,
    }
