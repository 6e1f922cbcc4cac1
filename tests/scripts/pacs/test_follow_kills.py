"""A process that follows, killed at random moments while the PACS changes: nothing is lost, nothing is there twice."""

import random
from pathlib import Path

import pytest
from follow_world import Followed, save_collection_of
from killing import Killer
from pacs_world import Orthanc, film, lateral, needs_orthanc, orthanc

from encoder.embedder import Embedder
from encoder.network.checkpoint import save_encoder

pytestmark = needs_orthanc
SHORT, LONG = 10, 1000


def follow(folder: Path, address: str) -> None:
    """Follow until nothing waits and all that is gone was noticed; what a child does."""
    Followed(folder, Embedder.load(folder / "encoder.safetensors", runtime="torch"), address).settle(turns=3)


def change(server: Orthanc, source: random.Random, there: dict[str, tuple[str, int]], number: int) -> None:
    """Send a new study, send one again with other content or with its lateral film, or delete one."""
    kind = source.choice(["new", "new", "other", "lateral", "delete"]) if len(there) > 3 else "new"
    study = f"1.2.{number + 1}" if kind == "new" else source.choice(sorted(there))
    patient, content = there.get(study, (f"P{number + 1}", 0))
    if kind == "delete":
        [found] = server.ask("POST", "/tools/lookup", data=study)
        server.ask("DELETE", f"/studies/{found['ID']}")
        del there[study]
        return
    content += kind == "other"
    server.put(lateral(patient, study) if kind == "lateral" else film(patient, study, seed=str(content)))
    there[study] = (patient, content)


@pytest.mark.parametrize(
    "count", [pytest.param(SHORT, marks=pytest.mark.slow), pytest.param(LONG, marks=pytest.mark.long)]
)
def test_whatever_is_killed_the_collection_becomes_what_the_pacs_has(
    count: int, tmp_path: Path, tiny_embedder: Embedder
) -> None:
    save_encoder(tmp_path / "encoder.safetensors", tiny_embedder.encoder, tiny_embedder.preprocessing)
    save_collection_of(tmp_path, tiny_embedder)
    killer, source, there = Killer(seed=count), random.Random(count), {}
    with orthanc(tmp_path / "orthanc", OverwriteInstances=True) as server:
        for number in range(4):
            change(server, source, there, number)
        killer.run_whole(follow, tmp_path, server.url)
        for number in range(4, 4 + count):
            change(server, source, there, number)
            killer.run(follow, tmp_path, server.url)
        print(killer.sentence())
        followed = Followed(tmp_path, tiny_embedder, server)
        followed.settle(turns=3)
        (tmp_path / "once").mkdir()
        wanted = Followed(tmp_path / "once", tiny_embedder, server)
        wanted.settle()

    assert killer.killed > count / 4
    assert followed.ids() == wanted.ids() == sorted(f"{patient}/{study}" for study, (patient, _) in there.items())
    for study_id in followed.ids():
        one, other = followed.study(study_id), wanted.study(study_id)
        assert [Path(path or "").name for path in (one.frontal_path, one.lateral_path)] == [
            Path(path or "").name for path in (other.frontal_path, other.lateral_path)
        ]
        assert followed.living.now().embedding(study_id) @ wanted.living.now().embedding(study_id) > 0.9999
    assert [path for name in ("came", "beside") for path in (followed.inbox.folder / name).iterdir()] == []
    assert followed.fates()["added"] == wanted.fates()["added"]
