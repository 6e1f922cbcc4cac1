"""A process that follows, killed at random moments while the PACS changes: nothing is lost, nothing is there twice."""

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from command_line import json_of
from follow_world import Followed, save_collection_of
from killing import Killer, Warm
from pacs_world import Orthanc, film, lateral, needs_orthanc, orthanc

import scripts.pacs.follow
from encoder.embedder import Embedder
from encoder.network.checkpoint import save_encoder
from scripts.pacs.follow import ALONE_FROM, MOST_ENDS
from scripts.pacs.inbox import Inbox
from scripts.pacs.outbox import Outbox
from scripts.pacs.sending import returning

pytestmark = needs_orthanc
SHORT, LONG = 100, 1000
Studies = dict[str, tuple[str, int]]
"""The patient and the content of each study that the PACS has."""


def warmed(folder: Path, address: str) -> Embedder:
    """Return an embedder, once a collection of its own has followed: all is imported and has been used."""
    embedder = Embedder.load(folder / "encoder.safetensors", runtime="torch")
    (folder / "warm").mkdir()
    followed = Followed(folder / "warm", embedder, address, returned=("sr", str(folder / "warm")))
    followed.settle()
    followed.send()
    return embedder


def follow(embedder: Embedder, folder: Path, address: str) -> None:
    """Follow and return until nothing waits and all that is gone was noticed; what a child does."""
    followed = Followed(folder, embedder, address, returned=("sr", f"{address}/dicom-web"))
    with returning(followed.returner, Event()):
        followed.settle(turns=3)
    followed.send()


def change(server: Orthanc, source: random.Random, there: Studies, number: int) -> str:
    """Send a new study, send one again with other content or with its lateral film, or delete one; return which."""
    kind = source.choice(["new", "new", "other", "lateral", "delete"]) if len(there) > 3 else "new"
    study = f"1.2.{number + 1}" if kind == "new" else source.choice(sorted(there))
    patient, content = there.get(study, (f"P{number + 1}", 0))
    if kind == "delete":
        [found] = server.ask("POST", "/tools/lookup", data=study)
        server.ask("DELETE", f"/studies/{found['ID']}")
        del there[study]
        return study
    content += kind == "other"
    server.put(lateral(patient, study) if kind == "lateral" else film(patient, study, seed=str(content)))
    there[study] = (patient, content)
    return study


def is_amid_work(inbox: Inbox, outbox: Outbox, before: float) -> bool:
    """Return whether a process that was killed had begun something and left it undone."""
    entries = [*inbox.last_entries("", 1), *outbox.last_entries("", 1)]
    began = any(at >= before for at, *_ in entries) or list((inbox.folder / "came").iterdir()) != []
    return began and inbox.counts()["studies_waiting"] + outbox.counts()["studies_waiting"] > 0


@pytest.mark.parametrize(
    "count", [pytest.param(SHORT, marks=pytest.mark.slow), pytest.param(LONG, marks=pytest.mark.long)]
)
def test_whatever_is_killed_the_collection_becomes_what_the_pacs_has_and_results_return_once(
    count: int, tmp_path: Path, tiny_embedder: Embedder
) -> None:
    save_encoder(tmp_path / "encoder.safetensors", tiny_embedder.encoder, tiny_embedder.preprocessing)
    save_collection_of(tmp_path, tiny_embedder)
    source, there, changes, amid = random.Random(count), Studies(), Counter[str](), 0
    with orthanc(tmp_path / "orthanc", OverwriteInstances=True) as server:
        for number in range(4):
            changes[change(server, source, there, number)] += 1
        warm = Warm(warmed, tmp_path, server.url)
        killer = Killer(count, warm.started, pacing=True)
        killer.run_whole(follow, tmp_path, server.url)
        inbox, outbox = Inbox(tmp_path / "state", 0.0), Outbox(tmp_path / "state")
        for number in range(4, 4 + count):
            changes[change(server, source, there, number)] += 1
            before = time.time()
            killer.run(follow, tmp_path, server.url)
            amid += is_amid_work(inbox, outbox, before)
        warm.close()
        print(f"{killer.sentence()}; {amid} amid work")
        followed = Followed(tmp_path, tiny_embedder, server, returned=("sr", server.dicomweb))
        followed.settle(turns=3)
        followed.send()
        (tmp_path / "once").mkdir()
        wanted = Followed(tmp_path / "once", tiny_embedder, server)
        wanted.settle()
        reports = {study: reports_in(server, study) for study in there}

    assert killer.killed > count / 3
    assert amid > count / 6
    assert followed.ids() == wanted.ids() == sorted(f"{patient}/{study}" for study, (patient, _) in there.items())
    for study_id in followed.ids():
        one, other = followed.study(study_id), wanted.study(study_id)
        assert [Path(path or "").name for path in (one.frontal_path, one.lateral_path)] == [
            Path(path or "").name for path in (other.frontal_path, other.lateral_path)
        ]
        assert followed.living.now().embedding(study_id) @ wanted.living.now().embedding(study_id) > 0.9999
    assert [path for name in ("came", "beside", "results") for path in (inbox.folder / name).iterdir()] == []
    assert followed.fates()["added"] == wanted.fates()["added"]
    assert followed.returned().keys() <= {"sr stored", "sr was there already", "sr gone"}
    known = {name: study_id for _, study_id, name, fate in outbox.last_entries("", 10**6)}
    for study, uids in reports.items():
        assert {known[uid] for uid in uids} == {
            f"{there[study][0]}/{study}"
        }  # each was written down before it was sent
        assert 1 <= len(uids) <= changes[study]  # a report for what the study was, never two


def reports_in(server: Orthanc, study: str) -> set[str]:
    """Return the UIDs of a study's reports."""
    found = server.ask("GET", f"/dicom-web/studies/{study}/instances", params={"Modality": "SR"})
    return {one["00080018"]["Value"][0] for one in found if one["00080060"]["Value"] == ["SR"]}


def follow_with_a_faulty_decoder(embedder: Embedder, folder: Path, address: str, deadly: bytes) -> None:
    """Follow with a decoder that one film ends the process of."""
    read = scripts.pacs.follow.untagged

    def untagged(content: bytes, **options: Any) -> Any:
        if deadly in content:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(content, **options)

    vars(scripts.pacs.follow)["untagged"] = untagged
    Followed(folder, embedder, address).settle(turns=3)


@pytest.mark.slow
def test_a_film_that_ends_the_process_is_put_aside_and_holds_up_no_other(
    tmp_path: Path, tiny_embedder: Embedder
) -> None:
    save_encoder(tmp_path / "encoder.safetensors", tiny_embedder.encoder, tiny_embedder.preprocessing)
    save_collection_of(tmp_path, tiny_embedder)
    ends: list[int] = []
    with orthanc(tmp_path / "orthanc") as server:
        server.put(film(), film("P2", "1.2.66"), lateral("P2", "1.2.66"), film("P3", "1.2.3"))
        warm = Warm(warmed, tmp_path, server.url)
        while not ends or ends[-1] != 0:
            child = warm.started(follow_with_a_faulty_decoder, (tmp_path, server.url, b"1.2.66.1.1"))
            child.join()
            ends.append(child.exitcode)
            assert len(ends) < 9
        warm.close()
        status = json_of("follow", "--status", "--state", tmp_path / "state", "--of", "1.2.66.1.1")
        followed = Followed(tmp_path, tiny_embedder, server)

    assert ends == [-signal.SIGKILL] * (ALONE_FROM + MOST_ENDS) + [0]
    assert followed.ids() == ["P1/1.2.1", "P2/1.2.66", "P3/1.2.3"]
    assert followed.study("P2/1.2.66").views == ("lateral",)
    assert [one["fate"] for one in status["log"]] == ["came", "refused: ended the process"]
