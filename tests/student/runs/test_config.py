import json

import pytest
from pydantic import ValidationError

from cache_schema.errors import RequestError
from student.orion_lite.config import OrionLiteConfig
from student.orion_lite.presets import ORION_LITE
from student.runs.config import RunConfig, TrainingConfig
from student.runs.presets import changed, described, preset
from student.systems import PRESETS
from tests.paths import GOLDEN


def test_the_released_configuration_is_the_default():
    config = preset("orion-lite")
    assert config.training == TrainingConfig()
    assert config.student == OrionLiteConfig().model_dump(mode="json")
    training, student = config.training, config.student
    assert (training.learning_rate, training.weight_decay, training.clip_norm) == (5e-5, 1e-4, 1.0)
    assert (training.epochs, training.batch_size) == (20, 64)
    assert (student["mask"], student["batch_mixing"]) == ("orion", False)
    assert {name: options["weight"] for name, options in config.losses.items()} == {
        "mimic": 1.0,
        "regression": 3.0,
        "boundary": 3.0,
        "collision": 1.0,
        "latent": 3.0,
    }


def test_every_preset_differs_from_the_released_one_as_its_name_says():
    configs = {name: preset(name) for name in PRESETS}
    released = configs["orion-lite"]
    for name, config in configs.items():
        changes = released.differences(config)
        if name.endswith("-layers"):
            assert changes == {"student.layers": (6, int(name.split("-")[2]))}
        elif name in ("orion-lite-mse", "orion-lite-huber", "orion-lite-kl"):
            assert changes == {"losses.mimic.distance": ("l1", name.removeprefix("orion-lite-"))}
        assert config == config.completed(config.make_system())
        assert RunConfig.model_validate_json(config.model_dump_json()) == config
    assert configs["orion-lite-trajectory"].losses.keys() == released.losses.keys() - {"mimic"}
    assert set(configs["orion-lite-mimic"].losses) == {"mimic"}
    plus = configs["orion-lite-plus"]
    assert plus.student["mask"] == "complete"
    assert 7 in plus.losses["collision"]["classes"]
    assert plus.losses["latent"] == {"weight": 3.0, "warmup_steps": 3_669, "free_nats": 0.05}


def test_only_what_decides_nothing_of_the_past_may_change():
    assert TrainingConfig().may_change() == {"epochs", "log_every", "checkpoint_every"}
    assert TrainingConfig(schedule="cosine").may_change() == {"log_every", "checkpoint_every"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"training": {"learning_rat": 1e-3}}, "learning_rat"),
        ({"training": {"epochs": 0}}, "greater than 0"),
        ({"training": {"ema_decay": 1.0}}, "less than 1"),
        ({"losses": {}}, "at least 1"),
        ({"sizes": {}}, "Extra inputs"),
    ],
)
def test_unknown_keys_and_impossible_values_are_refused(wrong, message):
    with pytest.raises(ValidationError, match=message):
        RunConfig.model_validate({**ORION_LITE.model_dump(), **wrong})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student.hidden": 10}, "hidden 10 is no multiple of heads 16"),
        ({"student.hiden": 10}, r"student\.hiden: Extra inputs"),
        ({"losses.mimic.wieght": 1}, r"losses\.mimic\.wieght: Extra inputs"),
        ({"losses.mimik.weight": 1}, "no loss called 'mimik'; did you mean 'mimic'"),
        ({"losses.mimic": "2"}, "a term of the loss cannot be '2'"),
        ({"epoch": 3}, "no field 'epoch'; did you mean 'epochs'"),
        ({"training.epochs": "many"}, r"training\.epochs"),
        ({f"losses.{name}": "off" for name in ORION_LITE.losses}, "at least 1"),
    ],
)
def test_changes_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(RequestError, match=message):
        preset("orion-lite", changes)


def test_changes_reach_every_field_as_text():
    config = preset(
        "orion-lite-plus",
        {
            "training.epochs": "5",
            "batch_size": "32",
            "student.layers": "4",
            "hidden": "64",
            "ema_decay": "null",
            "compile": "true",
            "losses.collision.classes": "[0, 3]",
            "losses.mimic.weight": "2",
            "losses.boundary": "off",
        },
    )
    assert (config.training.epochs, config.training.batch_size) == (5, 32)
    assert (config.training.ema_decay, config.training.compile) == (None, True)
    assert (config.student["layers"], config.student["hidden"]) == (4, 64)
    assert config.losses["collision"]["classes"] == [0, 3]
    assert config.losses["mimic"]["weight"] == 2.0
    assert "boundary" not in config.losses


def test_a_term_of_the_loss_is_added_by_name_or_by_any_of_its_options():
    config = preset("orion-lite-mimic", {"losses.latent": "on", "losses.regression.weight": "60"})
    assert config.losses["latent"]["free_nats"] == 0.0
    assert config.losses["regression"]["weight"] == 60.0
    own = "student.orion_lite.losses.mimic:Mimic"
    config = preset("orion-lite-mimic", {f"losses.{own}.distance": "mse", "losses.mimic": "off"})
    assert config.losses == {own: {"weight": 1.0, "warmup_steps": 0, "distance": "mse"}}


def test_a_configuration_of_version_0_1_means_the_same_today():
    flat = json.loads((GOLDEN / "run_0_1_0/run/run.json").read_text())["config"]
    config = RunConfig.model_validate(flat)
    assert config == RunConfig(
        system="orion-lite",
        training=TrainingConfig(
            epochs=3,
            batch_size=4,
            learning_rate=0.01,
            schedule="cosine",
            warmup_steps=2,
            decay="matrices",
            ema_decay=0.9,
            seed=5,
            log_every=2,
            checkpoint_every=2,
        ),
        student={
            "hidden": 4,
            "layers": 1,
            "heads": 2,
            "feedforward": 4,
            "dropout": 0.1,
            "batch_mixing": False,
            "mask": "orion",
        },
        losses={
            "mimic": {"distance": "huber"},
            "regression": {},
            "latent": {"free_nats": 0.05, "weight": 2.0, "warmup_steps": 6},
        },
    )


def test_a_preset_of_ones_own_is_named_by_where_it_is(tmp_path, monkeypatch):
    (tmp_path / "my_presets.py").write_text(
        "from student.orion_lite.presets import ORION_LITE\n"
        "from student.runs.presets import changed\n"
        "MINE = changed(ORION_LITE, {'epochs': 7})\n"
        "WRONG = {'epochs': 7}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert preset("my_presets:MINE") == preset("orion-lite", {"epochs": 7})
    with pytest.raises(RequestError, match="my_presets:WRONG' is a dict"):
        preset("my_presets:WRONG")
    with pytest.raises(RequestError, match="cannot be imported"):
        preset("my_presets:NONE")


def test_an_unknown_preset_names_the_nearest_and_lists_all():
    with pytest.raises(RequestError, match="did you mean 'orion-lite'") as caught:
        preset("orion-light")
    assert all(name in caught.value.expected for name in PRESETS)


def test_a_recipe_is_a_preset_and_what_was_changed():
    assert described("demo", {}) == "demo"
    assert described("demo", {"epochs": "5", "losses.mimic": "off"}) == "demo, epochs 5, losses.mimic off"


def test_differences_are_named_by_their_place():
    other = changed(ORION_LITE, {"epochs": 3, "losses.mimic": "off", "losses.regression.weight": 1.0})
    assert ORION_LITE.differences(other) == {
        "training.epochs": (20, 3),
        "losses.mimic": ({}, None),
        "losses.regression": ({}, None),
        "losses.regression.weight": (None, 1.0),
    }
