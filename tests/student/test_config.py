import pytest
from pydantic import ValidationError

from cache_schema.errors import RequestError
from student.config import TrainConfig, preset


def test_the_released_recipe_is_the_default():
    recipe = preset("orion-lite")
    assert recipe == TrainConfig()
    assert (recipe.learning_rate, recipe.weight_decay, recipe.clip_norm) == (5e-5, 1e-4, 1.0)
    assert (recipe.epochs, recipe.batch_size, recipe.mask, recipe.batch_mixing) == (20, 64, "orion", False)
    assert set(recipe.objectives) == {"mimic", "regression", "boundary", "collision", "latent"}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"learning_rat": 1e-3}, "learning_rat"),
        ({"epochs": 0}, "greater than 0"),
        ({"hidden": 10}, "no multiple"),
    ],
)
def test_unknown_keys_and_impossible_values_are_refused(wrong, said):
    with pytest.raises(ValidationError, match=said):
        TrainConfig(**wrong)


def test_a_recipe_of_ones_own_is_named_by_where_it_is(tmp_path, monkeypatch):
    (tmp_path / "my_recipes.py").write_text(
        "from student.config import TrainConfig\nMINE = TrainConfig(epochs=7)\nWRONG = {'epochs': 7}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert preset("my_recipes:MINE") == TrainConfig(epochs=7)
    with pytest.raises(RequestError, match="my_recipes:WRONG' is a dict"):
        preset("my_recipes:WRONG")
    with pytest.raises(RequestError, match="cannot be imported"):
        preset("my_recipes:NONE")


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(RequestError, match="did you mean 'orion-lite'"):
        preset("orion-light")
