"""Every design of the seeds, from films to neighbours and figures, on a small simulated collection."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from command_line import done

from encoder.findings.probe import LinearProbe
from index.export.shards import load_manifest
from index.table.studies import load_studies, save_studies

RECIPES = {
    "dual_b0": (64, 512),
    "xray_densenet121": (64, 1024),
    "efficientnet_b4": (64, 1792),
    "resnet50_binary": (64, 2048),
    "resnetv2_50_transfer": (64, 128),
    "efficientnetv2_s_multiscale": (96, 256),
}
"""Side of the film here, and the width of the vector that the design has."""
BRIEF = ("dual_b0", "resnet50_binary", "efficientnetv2_s_multiscale")
"""Between them two branches, folds, and sides that change; the others are run in minutes."""


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 30 simulated patients, with NIH's further words as columns."""
    root = tmp_path_factory.mktemp("recipes")
    done("phantom", "--patients", "30", "--seed", "11", "--out", root)
    done("import", "chexpert", root / "train.csv", "--images", root, "--out", root / "studies.parquet")
    table = load_studies(root / "studies.parquet")
    for word, like in (("Mass", "Lung Lesion"), ("Nodule", "Lung Lesion"), ("Infiltration", "Consolidation")):
        table = table.append_column(pa.field(word, pa.int8()), table[like])
    save_studies(table, root / "studies.parquet")
    return root


@pytest.mark.parametrize(
    "recipe", [pytest.param(name, marks=pytest.mark.slow if name in BRIEF else pytest.mark.long) for name in RECIPES]
)
def test_a_recipe_runs_from_films_to_neighbours_and_figures(recipe: str, collection: Path, tmp_path: Path) -> None:
    size, dim = RECIPES[recipe]
    small = [f"preprocessing.size={size}", "run.epochs=1", "run.batch_size=4", "optimizer.accumulation=1"]
    small += ["run.folds=2"] if recipe == "resnet50_binary" else []
    changes = [word for change in small for word in ("--set", change)]
    studies, images = collection / "studies.parquet", ("--images", collection)

    done("train", studies, *images, "--recipe", recipe, *changes, "--weights", "none", "--out", tmp_path / "run")
    encoder = next((tmp_path / "run").glob("**/encoder.safetensors"))
    done("export", studies, *images, "--encoder", encoder, "--out", tmp_path / "emb")
    done("index", tmp_path / "emb", "--out", tmp_path / "index")
    found = done("search", tmp_path / "index", "--study", "patient00003/study1", "-k", "3", "--json")
    done("probe", tmp_path / "emb", "--cv", "2", "--findings", "No Finding", "--out", tmp_path / "probe")

    assert load_manifest(tmp_path / "emb")["embedding_dim"] == dim
    assert len(json.loads(found.stdout)["hits"]) == 3
    figures = json.loads((tmp_path / "probe" / "metrics.json").read_text())
    assert np.isfinite(figures["findings"]["No Finding"]["figures"]["auroc"]["value"])


@pytest.mark.slow
def test_folds_judge_every_patient_once_with_an_encoder_that_never_saw_them(collection: Path, tmp_path: Path) -> None:
    changes = ["encoder.backbone=test_efficientnet", "preprocessing.size=64", "run.epochs=1", "run.batch_size=8"]
    words = [word for change in changes for word in ("--set", change)]
    done(
        "train",
        collection / "studies.parquet",
        "--images",
        collection,
        "--recipe",
        "resnet50_binary",
        *words,
        "--weights",
        "none",
        "--out",
        tmp_path / "run",
    )

    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    tested = [json.loads((tmp_path / "run" / f"fold{n}" / "splits.json").read_text())["test"] for n in range(1, 6)]
    every = load_studies(collection / "studies.parquet")["study_id"].to_pylist()
    assert sorted(study for fold in tested for study in fold) == sorted(every)
    assert len(set(metrics["fingerprints"])) == 5
    probes = [LinearProbe.load(tmp_path / "run" / f"fold{n}" / "probe") for n in range(1, 6)]
    assert [probe.fingerprint for probe in probes] == metrics["fingerprints"]
    at_youden = metrics["findings"]["abnormal"]["points"]["youden"]
    assert {"accuracy", "sensitivity", "specificity", "ppv", "npv", "f1"} <= set(at_youden)
    assert "<svg" in (page := (tmp_path / "run" / "report.html").read_text()) or "<img" in page
