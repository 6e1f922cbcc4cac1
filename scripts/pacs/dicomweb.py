"""Films of a PACS by DICOMweb: a search by QIDO-RS (PS3.18, section 10.6), and each film by WADO-RS (10.4)."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from pydicom.datadict import tag_for_keyword

from index.errors import CollectionError
from index.importing.dicom_header import FILM_MODALITIES
from index.importing.source import Notices
from scripts.pacs.rest import NotThere, Pacs, PacsError

PAGE = 100
"""Studies that are asked for at a time."""
MOST_INSTANCES = 10_000
"""Films of one series, and series of one study, that are listed."""
JSON = "application/dicom+json"
FILM = 'multipart/related; type="application/dicom"; transfer-syntax=*'
MODALITIES = "ModalitiesInStudy"
_UID = re.compile(r"[0-9]+(?:\.[0-9]+)*")
_TAG = re.compile(r"[0-9A-Fa-f]{8}")


@dataclass(frozen=True)
class Instance:
    """One film of a PACS, by the UIDs of its study, its series and itself, which are UIDs in truth."""

    study: str
    series: str
    instance: str
    sop_class: str = ""

    @property
    def path(self) -> str:
        """Where it is kept below a folder of films."""
        return f"{self.study}/{self.instance}.dcm"


def parse_where(words: Iterable[str], since: date | None = None) -> dict[str, str]:
    """Return what a search asks for, of words such as PatientSex=F: keywords of DICOM or tags of eight hex digits.

    Raises:
        CollectionError: a word is none, or a key stands twice.
    """
    asked: dict[str, str] = {} if since is None else {"StudyDate": f"{since:%Y%m%d}-"}
    for word in words:
        key, sign, value = word.partition("=")
        if not sign or not value or not (_TAG.fullmatch(key) or tag_for_keyword(key)):
            raise CollectionError(
                f"expected a condition such as {MODALITIES}=DX, a keyword of DICOM and its value, got {word!r}"
            )
        if key in asked:
            raise CollectionError(f"expected one condition on {key}, got two; a range of days is StudyDate=A-B")
        asked[key] = value
    return asked


def studies(pacs: Pacs, asked: Mapping[str, str]) -> Iterator[str]:
    """Yield the StudyInstanceUID of each study that a PACS finds, page by page.

    Modalities are compared here: with ModalitiesInStudy and an offset, Orthanc's second page is empty though there are
    more. An answer ends with a page that has nothing in it, for a server may give fewer at a time than it is asked for.

    Raises:
        PacsError: the pages repeat, so that those behind cannot be reached. And what `Pacs.json` raises.
    """
    wanted = set(asked.get(MODALITIES, "").upper().replace(",", "\\").split("\\")) - {""}
    others = {key: value for key, value in asked.items() if key != MODALITIES} | {"includefield": MODALITIES}
    seen: set[tuple[str, frozenset[str]]] = set()  # one UID under two patients is listed twice
    yielded: set[str] = {""}
    offset = 0
    while page := _records(pacs, "/studies", others | {"limit": str(PAGE), "offset": str(offset)}):
        offset += len(page)
        listed = {(_uid(record, "StudyInstanceUID"), frozenset(_values(record, MODALITIES))) for record in page}
        fresh = sorted(listed - seen, key=lambda pair: pair[0])
        if not fresh and len(page) < PAGE:
            return
        if not fresh:
            raise PacsError(
                f"the PACS {pacs.host} repeats a page of {PAGE} studies, so that no more can be reached; ask for fewer "
                "at a time: --where StudyDate=20260101-20260107"
            )
        seen.update(fresh)
        for uid, modalities in fresh:
            if uid not in yielded and (not wanted or not modalities or not wanted.isdisjoint(modalities)):
                yielded.add(uid)
                yield uid


def films(pacs: Pacs, study: str, modalities: Iterable[str] = FILM_MODALITIES) -> Iterator[Instance]:
    """Yield the instances of a study's series of those modalities. Raises what `Pacs.json` does."""
    for record in _listed(pacs, f"/studies/{study}/series"):
        series = _uid(record, "SeriesInstanceUID")
        said = _values(record, "Modality")
        if not series or (said and said.isdisjoint(modalities)):
            continue
        for entry in _listed(pacs, f"/studies/{study}/series/{series}/instances"):
            if instance := _uid(entry, "SOPInstanceUID"):
                yield Instance(study, series, instance, _uid(entry, "SOPClassUID"))


def fetch(
    pacs: Pacs,
    asked: Mapping[str, str],
    folder: Path,
    notices: Notices,
    *,
    threads: int = 4,
    advance: Callable[[int], None] = lambda studies: None,
    fetched: Callable[[str, int], None] = lambda study, films: None,
) -> int:
    """Write every film that a PACS finds to a folder, as STUDY/FILM.dcm; return how many were not there before.

    A film that is there is not asked for again, so what was interrupted goes on when it is called again.

    Args:
        advance: is given how many more studies are done.
        fetched: is given each study and how many films of it came, once they are on the disk.

    Raises:
        What `Pacs.json` and `Pacs.save` raise; OSError.
    """
    count, gone = 0, []
    with ThreadPoolExecutor(threads) as pool:
        for study in studies(pacs, asked):
            missing = [film for film in films(pacs, study) if not (folder / film.path).exists()]
            if missing:
                (folder / study).mkdir(parents=True, exist_ok=True)
            came = list(pool.map(lambda film: _save(pacs, film, folder), missing))
            gone += [film.path for film, there in zip(missing, came, strict=True) if not there]
            if any(came):
                fetched(study, sum(came))
            count += sum(came)
            advance(1)
    notices.add("gone", "films left out, the PACS lists them and has them not", gone)
    return count


def _save(pacs: Pacs, film: Instance, folder: Path) -> bool:
    try:
        pacs.save(f"/studies/{film.study}/series/{film.series}/instances/{film.instance}", folder / film.path, FILM)
    except NotThere:  # deleted since it was listed
        return False
    return True


def _listed(pacs: Pacs, path: str) -> Iterator[dict[str, Any]]:
    """Yield the records of an answer of several pages that may as well come as one."""
    seen: set[str] = set()
    while page := _records(pacs, path, {"limit": str(PAGE), "offset": str(len(seen))}):
        fresh = [record for record in page if repr(record) not in seen]
        if not fresh:
            return
        seen.update(map(repr, fresh))
        if len(seen) > MOST_INSTANCES:
            raise PacsError(f"expected at most {MOST_INSTANCES:,} films in a series of the PACS {pacs.host}, got more")
        yield from fresh


def _records(pacs: Pacs, path: str, asked: Mapping[str, str]) -> Sequence[dict[str, Any]]:
    """Return the records of one page. Raises PacsError: the answer is no list of records."""
    records = pacs.json(path, asked, JSON)
    if records is None:
        return []
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise PacsError(f"expected a list of DICOM records from the PACS {pacs.host}, got something else")
    return records


def _values(record: Mapping[str, Any], keyword: str) -> set[str]:
    """Return the values of one element (PS3.18, section F.2.2) that are text, in capitals."""
    element = record.get(f"{tag_for_keyword(keyword):08X}")
    values = element.get("Value") if isinstance(element, dict) else None
    return {value.upper() for value in values if isinstance(value, str)} if isinstance(values, list) else set()


def _uid(record: Mapping[str, Any], keyword: str) -> str:
    """Return a UID, which becomes part of a path and of an address; "" where it is none (PS3.5, section 9.1)."""
    values = list(_values(record, keyword))
    return values[0] if len(values) == 1 and len(values[0]) <= 64 and _UID.fullmatch(values[0]) else ""
