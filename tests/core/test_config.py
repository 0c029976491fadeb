"""Configuration: sources, their order, and what is refused."""

from __future__ import annotations

import pytest

from skate.core.config import Config, ConfigError, load


@pytest.fixture
def folder(tmp_path):
    def write(**files):
        for name, text in files.items():
            (tmp_path / {"config": "config.toml", "pyproject": "pyproject.toml", "env": ".env"}[name]).write_text(text)
        return str(tmp_path)

    return write


def test_without_files_nothing_is_chosen(folder):
    assert load(folder(), {}) == Config()
    assert load(folder(), {}).chosen_engine is None


@pytest.mark.parametrize(
    "files",
    [
        {"config": "[server]\nuse_ray = true\n"},
        {"config": "[engine]\nname = 'ray'\n"},
        {"config": "[server]\nengine = 'ray'\n"},
        {"pyproject": "[tool.skate.engine]\nname = 'ray'\n"},
        {"pyproject": "[tool.skate]\nserver = {use_ray = true}\n"},
        {"env": "# comment\nexport SKATE_SERVER__USE_RAY=true # yes\nOTHER__X=1\n"},
        {"env": "SKATE_ENGINE__NAME='ray'\n"},
    ],
)
def test_every_source_can_choose_ray(folder, files):
    assert load(folder(**files), {}).chosen_engine == "ray"


def test_the_environment_goes_over_dotenv_over_config_over_pyproject(folder):
    files = {
        "pyproject": "[tool.skate.engine]\nname = 'inline'\naddress = 'a'\n",
        "config": "[engine]\nname = 'ray'\n",
        "env": "SKATE_ENGINE__NAME=local\n",
    }
    assert load(folder(pyproject=files["pyproject"]), {}).chosen_engine == "inline"
    assert load(folder(config=files["config"]), {}).chosen_engine == "ray"
    found = load(folder(env=files["env"]), {})
    assert found.chosen_engine == "local" and found.engine.address == "a"
    assert load(folder(), {"SKATE_ENGINE__NAME": "inline"}).chosen_engine == "inline"


def test_use_ray_false_leaves_the_choice_open(folder):
    assert load(folder(config="[server]\nuse_ray = false\n"), {}).chosen_engine is None


def test_an_unknown_setting_names_its_place_and_the_nearest_valid_one(folder):
    with pytest.raises(ConfigError, match=r"config.toml: \[server\] has no setting 'use_rya'. Did you mean 'use_ray'"):
        load(folder(config="[engine]\nname = 'ray'\n[server]\nuse_rya = true\n"), {})
    with pytest.raises(ConfigError, match=r"the environment: \[engine\] has no setting 'nmae'.*Valid: address, name"):
        load(folder(config=""), {"SKATE_ENGINE__NMAE": "ray"})


@pytest.mark.parametrize("text", ["[server]\nuse_ray = 'perhaps'\n", "[server]\nuse_ray = 3\n", "[engine]\nname = 1\n"])
def test_a_value_of_the_wrong_type_is_refused_with_its_name(folder, text):
    with pytest.raises(ConfigError, match=r"config.toml: (server.use_ray|engine.name) = "):
        load(folder(config=text), {})


def test_a_file_of_another_program_is_left_alone(folder):
    assert load(folder(config="[server]\nport = 80\n[theme]\nengine_room = 1\n"), {}) == Config()
    assert load(folder(pyproject="[tool.other]\nx = 1\n"), {}) == Config()


def test_a_broken_file_of_ours_is_named(folder):
    with pytest.raises(ConfigError, match=r"config.toml is no TOML"):
        load(folder(config="[engine\n"), {})


def test_a_named_file_must_exist_and_is_ours_whatever_it_says(folder, tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load(folder(), {"SKATE_CONFIG": str(tmp_path / "none.toml")})
    other = tmp_path / "other.toml"
    other.write_text("[server]\nport = 80\n")
    with pytest.raises(ConfigError, match="no setting 'port'"):
        load(folder(), {"SKATE_CONFIG": str(other)})
