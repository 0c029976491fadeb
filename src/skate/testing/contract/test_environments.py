"""Runtime environments of tasks and actors: what is refused, and the files, modules and variables that they bring."""

import os
import zipfile

import pytest

REFUSED = [
    ({"pip": 5}, TypeError),
    ({"pip": [1]}, TypeError),
    ({"pip": "/no/such/file"}, ValueError),
    ({"pip": {"pip_check": True}}, ValueError),
    ({"pip": {"packages": ["a"], "pip_check": 1}}, TypeError),
    ({"pip": {"packages": ["a"], "colour": 1}}, ValueError),
    ({"pip": ["a"], "uv": ["b"]}, ValueError),
    ({"pip": ["a"], "conda": "b"}, ValueError),
    ({"uv": 5}, TypeError),
    ({"uv": {"packages": ["a"], "uv_version": 1}}, TypeError),
    ({"uv": {}}, ValueError),
    ({"conda": 5}, TypeError),
    ({"conda": "/no/such/place"}, ValueError),
    ({"container": {"image": "a"}, "pip": ["b"]}, ValueError),
    ({"image_uri": "a", "py_executable": "b"}, ValueError),
    ({"working_dir": "s3://bucket/no-archive"}, ValueError),
    ({"working_dir": "colour://x.zip"}, ValueError),
    ({"excludes": "*.log"}, TypeError),
    ({"config": 5}, TypeError),
    ({"config": {"setup_timeout_seconds": 0}}, ValueError),
    ({"config": {"setup_timeout_seconds": "5"}}, TypeError),
    ({"config": {"eager_install": 1}}, TypeError),
]


@pytest.mark.parametrize(("environment", "error"), REFUSED, ids=str)
def test_wrong_environment_is_refused_where_it_is_written(ray, environment, error):
    @ray.remote
    def f():
        return 1

    with pytest.raises(error):
        f.options(runtime_env=environment)


def test_runtime_env_has_the_packages_in_one_form(ray):
    env = ray.runtime_env.RuntimeEnv(pip=["a", "b", "a"])
    assert env["pip"] == {"packages": ["a", "b"], "pip_check": False}
    assert env.has_pip() and not env.has_uv() and not env.has_conda()
    assert ray.runtime_env.RuntimeEnv(uv=[]) == {}
    with pytest.raises(ValueError):
        ray.runtime_env.RuntimeEnv(pip=["a"], uv=["b"])


def test_config_has_its_defaults(ray):
    config = ray.runtime_env.RuntimeEnvConfig(setup_timeout_seconds=5)
    assert config == {"setup_timeout_seconds": 5, "eager_install": True, "log_files": []}
    assert ray.runtime_env.RuntimeEnv(config={"setup_timeout_seconds": 5})["config"] == config


@pytest.fixture
def code(tmp_path):
    """A directory with a file and a package in it, and an archive of it beside it."""
    folder = tmp_path / "code"
    (folder / "contract_pkg").mkdir(parents=True)
    (folder / "contract_pkg" / "__init__.py").write_text("VALUE = 7\n")
    (folder / "data.txt").write_text("data")
    with zipfile.ZipFile(tmp_path / "code.zip", "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(tmp_path))
    return folder


@pytest.mark.parametrize("uri", ["file://{code}.zip", "local://{code}"])
def test_working_dir_of_a_task(ray, code, uri):
    @ray.remote(runtime_env={"working_dir": uri.format(code=code)})
    def read():
        with open("data.txt") as file:
            return file.read()

    assert ray.get(read.remote()) == "data"


def test_modules_of_an_actor(ray, code):
    @ray.remote(runtime_env={"py_modules": [f"local://{code}"]})
    class Actor:
        def value(self):
            from contract_pkg import VALUE

            return VALUE

    assert ray.get(Actor.remote().value.remote()) == 7


@pytest.mark.parametrize("uri", ["file:///no/such/archive.zip", "local:///no/such/place"])
def test_files_that_are_not_there_are_an_error_of_the_setup(ray, uri):
    @ray.remote(runtime_env={"working_dir": uri})
    def f():
        return 1

    with pytest.raises(ray.exceptions.RuntimeEnvSetupError):
        ray.get(f.remote())


def test_variables_refer_to_what_is_there(ray):
    @ray.remote(runtime_env={"env_vars": {"PATH": "/first:${PATH}", "NOTHING": "<${CONTRACT_NO_SUCH}>"}})
    def seen():
        return os.environ["PATH"], os.environ["NOTHING"]

    path, nothing = ray.get(seen.remote())
    assert path.startswith("/first:/") and nothing == "<>"
