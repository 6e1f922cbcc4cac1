"""The encoder that is shipped, by its word, wherever an encoder file is named."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from command_line import done, json_of, save_tiny_encoder, verbs

from encoder.embedder import Embedder
from encoder.network import builtin
from encoder.network.checkpoint import fingerprint_of, load_encoder
from scripts.cli import precedent
from scripts.options.encoder_file import EncoderFile


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a small encoder file that stands for the one that is shipped."""
    path = save_tiny_encoder(tmp_path / "shipped.safetensors")
    monkeypatch.setattr(builtin, "BUILTIN_FILE", path)
    return path


def test_every_verb_that_takes_an_encoder_takes_the_word() -> None:
    options = {
        name: option
        for name, verb in verbs(precedent, "precedent")
        for option in verb.params
        if isinstance(option, click.Option) and "--encoder" in option.opts
    }

    assert len(options) >= 11
    for name, option in options.items():
        assert isinstance(option.type, EncoderFile), name
        assert "builtin" in (option.help or ""), name


def test_the_word_names_the_shipped_file_and_a_file_of_that_name_needs_its_folder(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    other = save_tiny_encoder(tmp_path / "builtin", "--seed", "1")
    fingerprints = [fingerprint_of(*load_encoder(path)) for path in (shipped, other)]

    told = [json_of("encoder", "info", word)["fingerprint"] for word in ("builtin", "./builtin")]

    assert told == fingerprints
    assert Embedder.load("builtin").fingerprint == fingerprints[0] != fingerprints[1]


def test_whose_films_an_encoder_learnt_from_is_kept_in_its_file(shipped: Path, tmp_path: Path) -> None:
    out, words = tmp_path / "packed.safetensors", ("--source", "films=ours = mine", "--source", "licence=CC0")

    done("encoder", "pack", shipped, "--out", out, *words)
    done("encoder", "pack", out, "--out", tmp_path / "again.safetensors", "--source", "licence=CC BY 4.0")

    assert load_encoder(out)[0].source == {"films": "ours = mine", "licence": "CC0"}
    assert json_of("encoder", "info", tmp_path / "again.safetensors")["source"]["licence"] == "CC BY 4.0"


def test_too_long_a_text_about_the_films_is_refused(shipped: Path, tmp_path: Path) -> None:
    words = ["encoder", "pack", shipped, "--out", tmp_path / "a", "--source", f"films={'x' * 501}"]
    told = CliRunner().invoke(precedent, [str(word) for word in words])

    assert (told.exit_code, "expected at most 8 texts of up to 500 signs" in told.output) == (2, True)
    assert not (tmp_path / "a").exists()
