"""Pseudonyms: one id one pseudonym whatever the run, none that gives its id away, and a key that stays apart."""

import re
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.errors import StudiesError
from index.importing.pseudonyms import LEAST_KEY, MOST_KEY, Pseudonyms, capped_age, load_key, make_key, require_apart

KEY = bytes(range(LEAST_KEY))


def test_a_pseudonym_is_the_keyed_hash_of_kind_and_id() -> None:
    # printf patient:P1 | openssl dgst -sha256 -mac HMAC -macopt hexkey:000102...1f
    assert Pseudonyms(KEY).of("patient", "P1") == "patientd2f23bf540b5d67d"


@given(st.text(), st.text())
def test_ids_keep_their_pseudonyms_over_runs_and_share_none(one: str, other: str) -> None:
    first, second = Pseudonyms(KEY), Pseudonyms(KEY)

    assert first.of("patient", one) == second.of("patient", one) == first.of("patient", one)
    assert (first.of("patient", one) == first.of("patient", other)) == (one == other)


def test_another_key_or_kind_gives_another_pseudonym() -> None:
    hidden = Pseudonyms(KEY).of("patient", "P1")

    assert hidden != Pseudonyms(KEY[::-1]).of("patient", "P1")
    assert hidden.removeprefix("patient") != Pseudonyms(KEY).of("study", "P1").removeprefix("study")


def test_two_ids_with_one_pseudonym_are_refused() -> None:
    crowded = Pseudonyms(KEY, digits=1)

    with pytest.raises(StudiesError, match="for two different ids; use another key"):
        _ = [crowded.of("patient", f"P{number}") for number in range(17)]


@pytest.mark.parametrize(("years", "given"), [(None, None), (0.5, 0.5), (89.0, 89.0), (89.1, 90.0), (120.0, 90.0)])
def test_over_89_everyone_is_90(years: float | None, given: float | None) -> None:
    assert capped_age(years) == given


def test_a_new_key_is_random_and_only_its_owners(tmp_path: Path) -> None:
    make_key(tmp_path / "a.key")
    make_key(tmp_path / "b.key")

    assert stat.S_IMODE((tmp_path / "a.key").stat().st_mode) == 0o600
    assert re.fullmatch(rb"[0-9a-f]{64}", load_key(tmp_path / "a.key"))
    assert load_key(tmp_path / "a.key") != load_key(tmp_path / "b.key")


def test_a_key_that_is_there_is_never_written_over(tmp_path: Path) -> None:
    make_key(tmp_path / "key")
    before = load_key(tmp_path / "key")

    with pytest.raises(StudiesError, match="leave out --new-key"):
        make_key(tmp_path / "key")
    assert load_key(tmp_path / "key") == before


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610])
def test_a_key_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "key").write_bytes(KEY)
    (tmp_path / "key").chmod(mode)

    with pytest.raises(StudiesError, match=f"got mode {mode:04o}; run: chmod 600"):
        load_key(tmp_path / "key")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (KEY[1:], "expected a key of 32 bytes or more, got 31"),
        (b"", "got 0"),
        (bytes(MOST_KEY + 1), "at most 4096 bytes"),
        (None, "got none; make one with --new-key"),
    ],
)
def test_what_is_no_key_is_refused(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    if content is not None:
        (tmp_path / "key").write_bytes(content)
        (tmp_path / "key").chmod(0o600)

    with pytest.raises(StudiesError, match=sentence):
        Pseudonyms(load_key(tmp_path / "key"))


def test_a_line_end_that_an_editor_adds_does_not_change_the_key(tmp_path: Path) -> None:
    make_key(tmp_path / "key")
    before = load_key(tmp_path / "key")
    (tmp_path / "key").write_bytes(before + b"\r\n")

    assert load_key(tmp_path / "key") == before


@pytest.mark.parametrize("place", ["films/key", "films/deep/key", "link/key", "films/../films/key"])
def test_a_key_among_what_is_passed_on_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "films/deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "films")

    with pytest.raises(StudiesError, match="expected 'key' outside"):
        require_apart(tmp_path / place, [tmp_path / "films"])
    require_apart(tmp_path / "films.key", [tmp_path / "films"])
