"""A collection that follows a real Orthanc: what is there is in it, once, whatever is corrected, stopped or killed."""

import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from follow_world import Followed
from full_disk import files_up_to
from pacs_world import Between, Orthanc, bomb, film, lateral, needs_orthanc, orthanc, slice_of_ct

from encoder.embedder import Embedder
from encoder.films.dicom_elements import read_header
from index.importing.dicom import import_dicom
from index.table.studies import Study

pytestmark = needs_orthanc


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Orthanc]:
    with orthanc(tmp_path / "orthanc", OverwriteInstances=True) as running:
        yield running


@pytest.fixture
def followed(tmp_path: Path, server: Orthanc, tiny_embedder: Embedder) -> Followed:
    return Followed(tmp_path, tiny_embedder, server)


def lookup(server: Orthanc, uid: str) -> str:
    """Return what Orthanc calls what has a UID."""
    [found] = server.ask("POST", "/tools/lookup", data=uid)
    return str(found["ID"])


def vector_of(followed: Followed, study_id: str) -> np.ndarray:
    return followed.living.now().embedding(study_id)


def test_films_of_a_study_that_come_apart_are_the_study_that_a_folder_of_them_makes(
    followed: Followed, server: Orthanc, tiny_embedder: Embedder, tmp_path: Path
) -> None:
    (tmp_path / "plain").mkdir()
    for number, content in enumerate((film(), lateral())):
        (tmp_path / f"plain/{number}.dcm").write_bytes(content)
    server.put(film(), slice_of_ct())
    followed.settle()
    alone = followed.study("P1/1.2.1")
    server.put(lateral(), lateral())  # delivered twice, too
    followed.settle()

    [row] = import_dicom(tmp_path / "plain", read_header).table.to_pylist()
    whole = followed.study("P1/1.2.1")
    paths = {"frontal_path": whole.frontal_path, "lateral_path": whole.lateral_path}
    assert (alone.views, alone.frontal_path) == (("frontal",), whole.frontal_path)
    assert whole == Study.from_row(row | paths)
    expected = tiny_embedder.embed(
        [tiny_embedder.read_films(tmp_path / "plain/0.dcm", tmp_path / "plain/1.dcm", row["projection"])]
    )
    assert vector_of(followed, "P1/1.2.1") @ expected[0] > 0.9999
    assert followed.fates() == {"added": 2, "refused: modality": 1}
    assert list((followed.inbox.folder / "came").iterdir()) == []


def test_corrections_at_the_pacs_are_made_in_the_collection(followed: Followed, server: Orthanc) -> None:
    server.put(*(film(f"P{number}", f"1.2.{number}") for number in (1, 2, 3)), lateral("P3", "1.2.3"))
    followed.settle()
    before = followed.study("P1/1.2.1").frontal_path

    server.put(film(seed="of other content"))
    patient = server.ask("GET", f"/studies/{lookup(server, '1.2.2')}")["ParentPatient"]
    kept = ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]
    renamed = {"Replace": {"PatientID": "P9"}, "Keep": kept, "Force": True, "KeepSource": False}
    server.ask("POST", f"/patients/{patient}/modify", json=renamed)
    server.ask("DELETE", f"/instances/{lookup(server, '1.2.3.1.1')}")  # the frontal: seen as something else comes
    server.put(slice_of_ct("1.2.3", PatientID="P3"))
    followed.settle(turns=3)

    assert followed.ids() == ["P1/1.2.1", "P3/1.2.3", "P9/1.2.2"]
    assert followed.study("P1/1.2.1").frontal_path != before  # which is named by its content
    assert followed.study("P3/1.2.3").views == ("lateral",)
    server.ask("DELETE", f"/studies/{lookup(server, '1.2.3')}")
    followed.settle(turns=3)
    assert followed.ids() == ["P1/1.2.1", "P9/1.2.2"]
    assert followed.fates() == {"added": 2, "gone": 4}


def test_a_pacs_that_is_killed_and_begins_anew_loses_and_doubles_nothing(
    followed: Followed, server: Orthanc, tmp_path: Path
) -> None:
    server.put(film(), film("P2", "1.2.2"))
    followed.settle()
    server.stop(kill=True)
    assert followed.look()  # it is silent, and is waited for
    server.start()
    server.put(film("P3", "1.2.3"))
    followed.settle()
    assert followed.ids() == ["P1/1.2.1", "P2/1.2.2", "P3/1.2.3"]

    server.stop()
    (tmp_path / "orthanc/storage").rename(tmp_path / "old")
    server.start()
    server.put(film("P2", "1.2.2"))  # the first of its changes, whose number was given before
    followed.settle(turns=4)
    assert followed.ids() == ["P2/1.2.2"]


def test_a_pacs_that_stops_in_the_middle_of_a_film_is_asked_again(
    server: Orthanc, tiny_embedder: Embedder, tmp_path: Path
) -> None:
    server.put(film(), lateral())
    between = Between(server.port, cut_after=5000)
    followed = Followed(tmp_path, tiny_embedder, f"http://localhost:{between.port}")
    followed.until(lambda: followed.inbox.counts()["most_tries"] > 1)
    assert followed.ids() == []
    assert list((followed.inbox.folder / "came").iterdir()) == []

    between.cut_after = None
    followed.settle()

    assert followed.study("P1/1.2.1").views == ("frontal", "lateral")
    between.close()


def test_a_study_is_looked_at_a_minute_after_its_last_film_and_again_when_one_comes_an_hour_later(
    server: Orthanc, tiny_embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1e9]
    monkeypatch.setattr("scripts.pacs.inbox.time.time", lambda: clock[0])
    followed = Followed(tmp_path, tiny_embedder, server, settle=60.0)
    views = {}
    for seconds, sent in (
        (0, film()),
        (50, lateral("P1", "1.2.1", "3")),
        (59, None),
        (2, None),
        (3600, lateral()),
        (61, None),
    ):
        clock[0] += seconds
        server.put(*([] if sent is None else [sent]))
        followed.look()
        views[clock[0] - 1e9] = (followed.study("P1/1.2.1").views, followed.fates()) if followed.ids() else None
    assert [views[moment] for moment in (0, 50, 109)] == [None] * 3
    assert views[111] == (("frontal", "lateral"), {"added": 2})
    assert views[3711] == (("frontal", "lateral"), {"added": 2})
    assert views[3772] == (("frontal", "lateral"), {"added": 2, "beside": 1})


@pytest.mark.long
def test_of_ten_thousand_films_at_once_none_is_lost(server: Orthanc, tiny_embedder: Embedder, tmp_path: Path) -> None:
    for number in range(2500):
        patient, study = f"P{number}", f"1.2.{number + 1}"
        server.put(
            film(patient, study),
            lateral(patient, study),
            film(patient, study, "3"),
            slice_of_ct(study, PatientID=patient),
        )
    followed = Followed(tmp_path, tiny_embedder, server)
    begun = time.monotonic()
    ends = begun + 3600
    while followed.look():
        assert time.monotonic() < ends
    print(f"10,000 films in {time.monotonic() - begun:,.0f} s")
    assert len(followed.ids()) == 2500
    assert followed.fates() == {"added": 5000, "beside": 2500, "refused: modality": 2500}
    assert list((followed.inbox.folder / "came").iterdir()) == []


def test_a_film_that_claims_more_pixels_than_any_has_is_refused_and_holds_up_no_other(
    followed: Followed, server: Orthanc
) -> None:
    server.put(film(), bomb("P1", "1.2.1"), bomb("P2", "1.2.2"))
    followed.settle()
    assert followed.ids() == ["P1/1.2.1"]
    assert followed.fates() == {"added": 1, "refused: picture": 2}


def test_a_full_disk_is_waited_for(followed: Followed, server: Orthanc) -> None:
    server.put(film(), film("P2", "1.2.2"))
    followed.until(lambda: followed.inbox.counts()["studies_waiting"] == 2 or followed.ids() != [])
    with files_up_to(4000):
        for _ in range(3):
            followed.follower.turn()
    followed.settle()
    assert followed.ids() == ["P1/1.2.1", "P2/1.2.2"]
    assert followed.fates() == {"added": 2}


@pytest.mark.slow
def test_of_three_hundred_films_one_is_shown_and_all_are_accounted_for(followed: Followed, server: Orthanc) -> None:
    server.put(*(film(instance=str(number)) for number in range(1, 300)))
    server.put(film(instance="300", PixelData=pydicom.dcmread(BytesIO(film())).PixelData))  # the first once more
    followed.settle()
    assert followed.fates() == {"added": 1, "beside": 299}
    server.ask("DELETE", f"/instances/{lookup(server, '1.2.1.1.1')}")
    server.put(lateral(instance="999"))
    followed.settle()
    assert followed.study("P1/1.2.1").views == ("frontal", "lateral")
    assert followed.fates() == {"added": 2, "beside": 298, "gone": 1}
