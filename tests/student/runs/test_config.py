import pytest
from pydantic import ValidationError

from cache_schema.errors import RequestError
from student.orion_lite.losses import build_objectives
from student.runs.config import PRESETS, TrainConfig, preset


def test_the_released_recipe_is_the_default():
    recipe = preset("orion-lite")
    assert recipe == TrainConfig()
    assert (recipe.learning_rate, recipe.weight_decay, recipe.clip_norm) == (5e-5, 1e-4, 1.0)
    assert (recipe.epochs, recipe.batch_size, recipe.mask, recipe.batch_mixing) == (20, 64, "orion", False)
    assert set(recipe.objectives) == {"mimic", "regression", "boundary", "collision", "latent"}


def test_every_preset_is_a_recipe_that_says_what_its_name_says():
    recipes = {name: preset(name) for name in PRESETS}
    released = TrainConfig().model_dump()
    for name, recipe in recipes.items():
        changed = {field for field, value in recipe.model_dump().items() if released[field] != value}
        if name.endswith("-layers"):
            assert changed == {"layers"}
            assert recipe.layers == int(name.split("-")[2])
        elif name in ("orion-lite-mse", "orion-lite-huber", "orion-lite-kl"):
            assert changed == {"objectives"}
            assert recipe.objectives["mimic"] == {"distance": name.removeprefix("orion-lite-")}
            assert recipe.objectives.keys() == released["objectives"].keys()
    assert "mimic" not in recipes["orion-lite-trajectory"].objectives
    assert set(recipes["orion-lite-mimic"].objectives) == {"mimic"}
    plus = recipes["orion-lite-plus"]
    assert plus.mask == "complete"
    assert 7 in plus.objectives["collision"]["classes"]
    assert TrainConfig.model_validate_json(plus.model_dump_json()) == plus
    for recipe in recipes.values():
        build_objectives(recipe.objectives)


def test_only_what_decides_nothing_of_the_past_may_change():
    assert TrainConfig().may_change() == {"epochs", "log_every", "checkpoint_every"}
    assert TrainConfig(schedule="cosine").may_change() == {"log_every", "checkpoint_every"}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"learning_rat": 1e-3}, "learning_rat"),
        ({"epochs": 0}, "greater than 0"),
        ({"hidden": 10}, "no multiple"),
        ({"term_warmup_steps": {"latnet": 5}}, "names no objective of the run: latnet"),
        ({"ema_decay": 1.0}, "less than 1"),
    ],
)
def test_unknown_keys_and_impossible_values_are_refused(wrong, said):
    with pytest.raises(ValidationError, match=said):
        TrainConfig(**wrong)


def test_a_recipe_of_ones_own_is_named_by_where_it_is(tmp_path, monkeypatch):
    (tmp_path / "my_recipes.py").write_text(
        "from student.runs.config import TrainConfig\nMINE = TrainConfig(epochs=7)\nWRONG = {'epochs': 7}\n"
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
