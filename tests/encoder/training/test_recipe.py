from pathlib import Path

import pytest

from encoder.errors import RecipeError
from encoder.training.recipe import Recipe, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_of_the_package_loads_and_survives_being_written_back(name: str, tmp_path: Path) -> None:
    recipe = Recipe.load(name)

    (tmp_path / "resolved.toml").write_text(recipe.to_toml())

    assert Recipe.load(str(tmp_path / "resolved.toml")) == recipe


def test_a_change_wins_over_the_file_and_takes_the_options_type() -> None:
    changes = ["run.epochs=3", "optimizer.lr=1", "run.weights=none", 'targets.findings=["Edema"]']

    recipe = Recipe.load("phantom", changes)

    assert (recipe.run.epochs, recipe.optimizer.lr, recipe.run.weights) == (3, 1.0, "none")
    assert recipe.targets.findings == ("Edema",)


def test_preprocessing_takes_the_backbones_own_statistics_unless_the_recipe_says_otherwise() -> None:
    grey = Recipe.from_dict({"encoder": {"backbone": "densenet121", "in_chans": 1}})
    said = Recipe.from_dict({"preprocessing": {"mean": [0.5], "std": [0.5]}, "encoder": {"in_chans": 1}})

    assert len(grey.preprocessing.mean) == 1
    assert said.preprocessing.mean == (0.5,)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("run.epoch=3", "expected keys of epochs"),
        ("fun.epochs=3", "expected keys of encoder"),
        ("run.epochs=soon", "expected int, got 'soon'"),
        ("run.epochs=0", "expected 1 to"),
        ("schedule.kind=jump", "expected constant, plateau"),
        ("encoder.embedding_dim=100", "expected embedding_dim"),
        ("epochs", "expected section.key=value"),
        ("targets.classes={a=['x=1']}", "with findings or with classes"),
        ("loss.prefixes=[512]", "shorter than the embedding's 256"),
    ],
)
def test_a_wrong_option_is_refused_with_what_is_known(change: str, sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        Recipe.load("phantom", [change])


def test_films_and_network_must_agree_in_channels() -> None:
    with pytest.raises(RecipeError, match="as many channels"):
        Recipe.load("phantom", ["preprocessing.mean=[0.5]", "preprocessing.std=[0.5]"])


def test_an_unknown_recipe_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(RecipeError, match=r"phantom.*got 'ghost'"):
        Recipe.load("ghost")
