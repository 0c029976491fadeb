"""Configuration: sources, their order, and what is refused."""

from __future__ import annotations

import pytest

from skate.core.config import ConfigError, is_secret, load, load_with_origins, masked
from skate.core.config_tables import Config


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


def test_flags_go_over_the_environment_over_dotenv_over_pyproject_over_config(folder):
    files = {
        "config": "[engine]\nname = 'inline'\naddress = 'a'\n",
        "pyproject": "[tool.skate.engine]\nname = 'ray'\n",
        "env": "SKATE_ENGINE__NAME=local\n",
    }
    assert load(folder(config=files["config"]), {}).chosen_engine == "inline"
    assert load(folder(pyproject=files["pyproject"]), {}).chosen_engine == "ray"
    found = load(folder(env=files["env"]), {})
    assert found.chosen_engine == "local" and found.engine.address == "a"
    assert load(folder(), {"SKATE_ENGINE__NAME": "inline"}).chosen_engine == "inline"
    flags = {"engine.name": "ray", "server.port": 9000}
    config, origins = load_with_origins(folder(), {"SKATE_ENGINE__NAME": "inline"}, flags)
    assert (config.chosen_engine, config.server.port) == ("ray", 9000)
    assert origins["engine.name"] == origins["server.port"] == "the command line"
    assert origins["engine.address"] == "config.toml"


def test_variables_reach_lists_and_tables_of_any_depth(folder):
    found = load(
        folder(),
        {
            "SKATE_LOAD_PLUGINS": "one, two",
            "SKATE_AUTH__RULES": '{"/api/v1/x": ["k"]}',
            "SKATE_SERVER__INGRESS_CONFIG__MAX_ONGOING_REQUESTS": "7",
            "SKATE_PLUGINS__ECHO__TIMES": "3",
            "SKATE_PLUGINS__ECHO__GREETING": "hello",
        },
    )
    assert found.load_plugins == ["one", "two"]
    assert found.auth.rules == {"/api/v1/x": ["k"]}
    assert found.plugins == {"echo": {"times": 3, "greeting": "hello"}}
    assert found.server.ingress_config == {"max_ongoing_requests": "7"}


def test_a_secret_is_not_in_the_error_about_it(folder):
    with pytest.raises(ConfigError, match=r"auth.rules = a value that is not shown here: expected `array`") as caught:
        load(folder(), {"SKATE_AUTH__RULES": '{"/x": "sesame"}'})
    assert "sesame" not in str(caught.value)
    assert [name for name in ("plugins.a.api_key", "plugins.a.keyboard", "x.client_secret") if is_secret(name)] == [
        "plugins.a.api_key",
        "x.client_secret",
    ]


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
    other.write_text("[server]\npart = 80\n")
    with pytest.raises(ConfigError, match=r"no setting 'part'. Did you mean 'port'"):
        load(folder(), {"SKATE_CONFIG": str(other)})


def test_what_is_called_a_secret_is_one_however_it_is_written() -> None:
    hidden = ["clientSecret", "CLIENT_SECRET", "authToken", "x.api-key", "secretkey", "db.pwd", "headers.Authorization"]
    hidden += ["auth.rules./x", "plugins.proxy.auth.rules./x", "telemetry.headers.x", "sentry.dsn", "a.passphrase"]
    plain = ["server.port", "monkey", "tokenizer", "auth.oauth.issuer", "author", "keyboard", "compass", "cookieless"]
    assert [name for name in hidden if not is_secret(name)] == []
    assert [name for name in plain if is_secret(name)] == []


def test_what_is_shown_of_a_value_has_no_secret() -> None:
    table = {"url": "a://b:hush@c/d?x=1&token=hush#e", "list": [{"apiKey": "hush"}, "a://hush@b"], "a://b:hush@c": 1}
    assert "hush" not in str(masked("plugins.x", table))
    assert masked("x.url", "https://x/?page=2&sort=up") == "https://x/?page=2&sort=up"
    for rude in ("://" * 30_000, "://" + "?" * 100_000, "://" + "&a" * 50_000):
        assert masked("x.url", rude) == rude  # and at once
    assert masked("x.token", "") == "" and masked("x.n", 0) == 0
