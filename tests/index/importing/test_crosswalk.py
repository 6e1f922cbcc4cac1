"""The way back from a pseudonym: for who holds the key, and for nobody else."""

import os
from pathlib import Path

import pytest
from command_line import done, refusal
from film_files import dicom

from index.errors import ArtefactError, StudiesError
from index.importing.crosswalk import Crosswalk
from index.importing.pseudonyms import load_key
from index.table.studies import load_studies

pytest.importorskip("cryptography", reason="no cryptography; run: pip install 'cxr-precedent[pacs]'")
KEY = b"a key of thirty-two bytes or more"
UID = "1.2.840.99999.7"


def test_an_import_notes_which_study_a_pseudonym_stands_for(tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    (tmp_path / "films/a.dcm").write_bytes(dicom(PatientID="P1", StudyInstanceUID=UID, ViewPosition="PA"))
    (tmp_path / "out").mkdir()
    words = ["import", "dicom", tmp_path / "films", "--out", tmp_path / "out/studies.parquet", "--keep-paths"]
    words += ["--pseudonymise", tmp_path / "key", "--crosswalk"]

    done(*words, tmp_path / "crosswalk", "--new-key")
    done(*words, tmp_path / "crosswalk")

    [study_id] = load_studies(tmp_path / "out/studies.parquet")["study_id"].to_pylist()
    assert Crosswalk.open(tmp_path / "crosswalk", load_key(tmp_path / "key")).study_uid(study_id) == UID
    assert (tmp_path / "crosswalk").stat().st_mode & 0o777 == 0o600
    assert UID.encode() not in (tmp_path / "crosswalk").read_bytes()
    assert "outside the folder" in refusal(*words, tmp_path / "out/crosswalk")


def test_without_the_key_there_is_no_way_back(tmp_path: Path) -> None:
    Crosswalk.open(tmp_path / "crosswalk", KEY, make=True).add({"patient1/study1": UID})
    found = Crosswalk.open(tmp_path / "crosswalk", KEY + b"another")
    assert found.study_uid("patient1/study2") is None
    with pytest.raises(StudiesError, match="expected the key"):
        found.study_uid("patient1/study1")


def test_what_others_can_read_is_missing_or_is_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "crosswalk"
    with pytest.raises(StudiesError, match="got none"):
        Crosswalk.open(path, KEY)
    path.write_text("something else, and long enough to be taken for a page of it" * 20)
    os.chmod(path, 0o600)
    with pytest.raises(ArtefactError, match="is damaged"):
        Crosswalk.open(path, KEY, make=True)
    path.unlink()
    Crosswalk.open(path, KEY, make=True)
    os.chmod(path, 0o644)
    with pytest.raises(StudiesError, match="chmod 600"):
        Crosswalk.open(path, KEY)
