"""What a recipe's studies must hold before anything is learnt from them, through the command line."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from command_line import done, refusal
from training_films import save_collection, train_words

from encoder.training.recipe import Recipe
from index.errors import StudiesError
from index.table.splits import OFFICIAL
from index.table.studies import load_studies, save_studies
from scripts.work.cross_validation import deal
from scripts.work.material import Material, Parts

LESION = [1 - number % 2 for number in range(40)]


def material_of(folder: Path, *changes: str) -> Material:
    recipe = Recipe.load("phantom", ["targets.findings=['Lung Lesion', 'Edema']", *changes])
    return Material.gather(folder / "studies.parquet", folder, "phantom", recipe, 1.0)


@pytest.mark.parametrize(
    ("labels", "patients", "change", "sentence"),
    [
        (LESION, 1, "run.seed=1", "at least 3 patients"),
        ([0] * 40, 20, "run.seed=1", "expected a positive label among the training studies"),
        ([1] * 40, 20, "run.seed=1", "'train', got none (Lung Lesion: no negatives among 28"),
        ([None] * 40, 20, "run.seed=1", "expected studies with a label that counts, got none of 40"),
        ([None] * 40, 20, "targets.blank=zeros", "expected a positive label among the training studies"),
        ([1, *[0] * 39], 20, "run.seed=1", "'valid', got none (Lung Lesion: no positives among 4"),
        ([None] * 40, 20, "run.folds=3", "expected studies with a label that counts"),
    ],
)
def test_labels_that_nothing_can_be_learnt_from_end_in_one_line(
    labels: list[int | None], patients: int, change: str, sentence: str, tmp_path: Path
) -> None:
    folder = save_collection(tmp_path, labels={"Lung Lesion": labels}, patients=patients)
    assert sentence in refusal(*train_words(folder, change), "--out", tmp_path / "run")


def test_a_label_that_is_none_is_refused_by_its_name(tmp_path: Path) -> None:
    table = load_studies(save_collection(tmp_path) / "studies.parquet")
    mass = pa.array([2.0 if row == 5 else row % 2 for row in range(40)], pa.float32())
    save_studies(table.append_column("Mass", mass), tmp_path / "studies.parquet")
    words = train_words(tmp_path, "targets.findings=['Mass']")
    assert "Mass: expected a label of 1, 0, -1 or blank, got 2.0 at row 5" in refusal(*words, "--out", tmp_path / "run")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_collection(tmp_path)
    other = ("encoder", "create", "--backbone", "test_resnet", "--weights", "none", "--out", tmp_path / "e.safetensors")
    done(*other)
    words = (*train_words(tmp_path), "--weights", tmp_path / "e.safetensors", "--out", tmp_path / "run")
    assert "was it saved from another network?" in refusal(*words)


def test_the_official_split_teaches_what_it_says_and_what_it_lacks_is_carved_from_train(tmp_path: Path) -> None:
    save_collection(tmp_path)
    table = load_studies(tmp_path / "studies.parquet")
    words = pa.array(["test" if row < 10 else "train_val" for row in range(40)])
    save_studies(table.set_column(table.column_names.index("split"), "split", words), tmp_path / "studies.parquet")

    parts = replace(material_of(tmp_path), splits=Path(OFFICIAL)).split()

    assert parts["test"].tolist() == list(range(10))
    assert sorted([*parts["train"], *parts["valid"]]) == list(range(10, 40))
    assert len(parts["valid"]) > 0
    save_studies(table, tmp_path / "studies.parquet")
    refused = refusal(*train_words(tmp_path), "--splits", OFFICIAL, "--out", tmp_path / "run")
    assert "in the column 'split', got none" in refused


def test_a_split_that_shares_a_patient_teaches_nothing(tmp_path: Path) -> None:
    material = material_of(save_collection(tmp_path, patients=20))
    shared: Parts = {"train": np.arange(20), "valid": np.arange(20, 40)}
    with pytest.raises(StudiesError, match="expected no patient in two parts, got 'patient00000' in train and valid"):
        material.studies_of(shared)


def test_every_fold_is_looked_at_before_the_first_one_is_learnt_from(tmp_path: Path) -> None:
    few = [1 if number < 3 else 0 for number in range(40)]
    material = material_of(save_collection(tmp_path, labels={"Lung Lesion": few}, patients=40), "run.folds=3")
    with pytest.raises(StudiesError, match="in the part"):
        deal(material)


def test_what_the_training_studies_cannot_teach_is_told_by_name(tmp_path: Path) -> None:
    material = material_of(save_collection(tmp_path, labels={"Lung Lesion": LESION}))
    assert material.not_learnt(material.split()) == {"Edema": "no positives among 28 labelled studies"}


@pytest.mark.parametrize("policy", ["ignore", "zeros", "ones"])
def test_the_recipes_policy_decides_what_uncertain_is_learnt_as(policy: str, tmp_path: Path) -> None:
    labels = {"Lung Lesion": LESION, "Edema": [-1] * 40}
    words = (f"targets.uncertain={policy}", f"targets.blank={policy}", "targets.per_label={Edema='ones'}")
    material = material_of(save_collection(tmp_path, labels=labels), *words)
    assert set(material.targets[:, 1]) == {1.0}
    meaning = {"ignore": "is ignored", "zeros": "counts as absent", "ones": "counts as present"}[policy]
    assert material.wanted.sentence() == (
        f"labels: uncertain (-1) {meaning}; in Edema it counts as present; blank {meaning}"
    )
