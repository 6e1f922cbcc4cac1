"""What is found in a study that is followed returns to it in a real Orthanc, once, whatever stops in between."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("highdicom", reason="no highdicom; run: pip install 'cxr-precedent[pacs]'")
from follow_world import Followed
from pacs_world import Between, Orthanc, film, lateral, needs_orthanc, orthanc

from encoder.embedder import Embedder
from index.errors import BackendUnavailable

pytestmark = needs_orthanc
PATIENTS = {f"P{number}": f"1.2.{number}" for number in range(1, 5)}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Orthanc]:
    with orthanc(tmp_path / "orthanc", OverwriteInstances=True) as running:
        yield running


@pytest.fixture
def followed(tmp_path: Path, server: Orthanc, tiny_embedder: Embedder) -> Followed:
    return Followed(tmp_path, tiny_embedder, server, returned=("sr,sc,kos", server.dicomweb))


def held(server: Orthanc, study: str) -> Counter[str]:
    """Return how many instances of which modality a study has."""
    found = server.ask("GET", f"/dicom-web/studies/{study}/instances")
    return Counter(one["00080060"]["Value"][0] for one in found)


def test_results_return_as_studies_are_added_and_are_no_news_when_they_come_round(
    followed: Followed, server: Orthanc
) -> None:
    server.put(*(film(patient, study) for patient, study in PATIENTS.items()), lateral())
    followed.settle()
    followed.send()
    first = {study: held(server, study) for study in PATIENTS.values()}
    fates = followed.fates()
    server.put(lateral())  # has the first study looked at again, with its results in it
    followed.settle(turns=3)
    followed.send()

    assert first["1.2.1"] == {"DX": 2, "SR": 1, "OT": 2, "KO": 1}
    assert first["1.2.2"] == {"DX": 1, "SR": 1, "OT": 1, "KO": 1}
    assert {study: held(server, study) for study in PATIENTS.values()} == first
    assert fates == {"added": 5}
    assert followed.fates() == {"added": 5, "refused: ours": 4}
    assert followed.returned() == {"sr stored": 4, "sc stored": 5, "kos stored": 4}
    assert list((followed.inbox.folder / "results").iterdir()) == []


def test_films_that_come_an_hour_apart_have_results_of_what_was_there_and_of_all(
    followed: Followed, server: Orthanc, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put(film("P2", "1.2.2"), film())
    followed.settle()
    followed.send()
    server.put(lateral())
    followed.settle()
    followed.send()
    assert held(server, "1.2.1") == {"DX": 2, "SR": 2, "OT": 3, "KO": 2}
    assert held(server, "1.2.2") == {"DX": 1, "SR": 1, "OT": 1, "KO": 1}


def test_killed_between_sending_and_writing_it_down_the_same_objects_are_sent_again(
    followed: Followed, server: Orthanc, tiny_embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put(film(), film("P2", "1.2.2"))
    followed.settle()
    monkeypatch.setattr(followed.outbox, "sent", lambda name, fate: exit(1))
    with pytest.raises(SystemExit):
        followed.returner.step()
    assert held(server, "1.2.1") + held(server, "1.2.2") == {"DX": 2, "SR": 1}
    again = Followed(followed.folder, tiny_embedder, server, returned=("sr,sc,kos", server.dicomweb))
    server.put(film("P3", "1.2.3"))  # by which the similar cases are others now
    again.settle()
    again.send()
    for study in ("1.2.1", "1.2.2", "1.2.3"):
        assert held(server, study) == {"DX": 1, "SR": 1, "OT": 1, "KO": 1}
    assert again.returned()["sr was there already"] == 1


def test_a_pacs_that_takes_no_results_delays_no_film_and_gets_them_later(
    server: Orthanc, tiny_embedder: Embedder, tmp_path: Path
) -> None:
    between = Between(server.port, asked=lambda data: data.replace(b"POST /dicom-web", b"POST /dicom-xxx"))
    to = f"http://localhost:{between.port}/dicom-web"
    followed = Followed(tmp_path, tiny_embedder, server, returned=("sr,sc", to))
    server.put(film(), film("P2", "1.2.2"))
    followed.settle()
    followed.returner.step()
    refused = followed.outbox.counts() if followed.outbox else {}
    between.close()
    server.put(film("P3", "1.2.3"))
    followed.settle()
    with pytest.raises(BackendUnavailable, match="does not answer"):
        followed.returner.step()
    assert followed.ids() == ["P1/1.2.1", "P2/1.2.2", "P3/1.2.3"]
    assert refused["studies_waiting"] == 2
    assert "has nothing at the address that was asked" in refused["reason"]
    assert followed.returned() == {"sr waits": 2, "sc waits": 2}

    right = Followed(tmp_path, tiny_embedder, server, returned=("sr,sc", server.dicomweb))
    right.send()

    assert right.returned() == {"sr stored": 3, "sc stored": 3}
    assert right.outbox is not None
    assert right.outbox.counts()["reason"] is None


def test_a_study_that_has_gone_is_not_made_anew_by_its_results(followed: Followed, server: Orthanc) -> None:
    server.put(film(), film("P2", "1.2.2"))
    followed.settle()
    [found] = server.ask("POST", "/tools/lookup", data="1.2.1")
    server.ask("DELETE", f"/studies/{found['ID']}")
    followed.send()
    assert len(server.ask("GET", "/studies")) == 1
    server.put(film())
    followed.settle(turns=3)
    followed.send()
    assert held(server, "1.2.1") == {"DX": 1, "SR": 1, "OT": 1, "KO": 1}
