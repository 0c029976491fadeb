"""`@remote` on classes, handles and their methods."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import cloudpickle
import pytest

import skate
from skate.actor import ActorClass, ActorClassInheritanceException, ActorHandle
from skate.core.options import STREAMING
from skate.core.refs import released


class Base:
    def inherited(self) -> str:
        return "inherited"


@skate.remote
class Account(Base):
    """Money."""

    BANK = "b"

    def __init__(self, owner: str, balance: int = 0) -> None:
        self.owner = owner
        self.balance = balance

    def deposit(self, amount: int) -> int:
        self.balance += amount
        return self.balance

    def _hidden(self) -> int:
        return 1

    def __call__(self) -> str:
        return "called"

    @property
    def shown(self) -> int:
        return 1

    @staticmethod
    def double(x: int) -> int:
        return 2 * x

    @classmethod
    def name(cls) -> str:
        return cls.__name__

    @skate.method(num_returns=2)
    def both(self) -> tuple[str, int]:
        return self.owner, self.balance

    def history(self) -> Iterator[int]:
        yield 1
        yield 2


class Grouped:
    @skate.method(concurrency_group="io")
    def read(self) -> str:
        return "r"


Account_: Any = Account  # mypy does not see what a decorator makes of a class


@pytest.fixture
def account(session: None) -> Any:
    return Account_.remote("ada", balance=1)


# ---- classes ----


def test_class_has_rays_looks() -> None:
    assert isinstance(Account_, ActorClass) and type(Account_).__name__ == "ActorClass(Account)"
    assert Account_.__ray_actor_class__("x").deposit(2) == 2
    assert Account_.__doc__ == "Money." and Account_.__module__ == __name__
    assert Account_.BANK == "b" and Account_.double(4) == 8


def test_class_cannot_be_instantiated_or_derived_from() -> None:
    with pytest.raises(TypeError, match=r"Account\.remote\("):
        Account_("ada")
    with pytest.raises(ActorClassInheritanceException):

        class Derived(Account_):  # type: ignore[misc]
            pass


def test_wrong_constructor_arguments_fail_at_once(session: None) -> None:
    with pytest.raises(TypeError, match="missing a required argument: 'owner'"):
        Account_.remote()
    with pytest.raises(TypeError, match="unexpected keyword argument 'z'"):
        Account_.remote("ada", z=1)


def test_class_without_constructor_takes_no_arguments(session: None) -> None:
    with pytest.raises(TypeError, match="too many positional arguments"):
        skate.remote(Base).remote(1)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"colour": 1}, ValueError),
        ({"max_retries": 1}, ValueError),
        ({"name": ""}, ValueError),
        ({"name": 5}, TypeError),
        ({"namespace": ""}, ValueError),
        ({"lifetime": "forever"}, ValueError),
        ({"get_if_exists": True}, ValueError),
        ({"runtime_env": {"working_dir": "/tmp"}}, ValueError),
    ],
    ids=lambda value: str(value),
)
def test_wrong_options_fail_where_they_are_written(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Account_.options(**options)


def test_options_reach_the_engine_as_one_value() -> None:
    made = skate.remote(num_cpus=2, concurrency_groups={"io": 2, "a": 1})(Base)
    options: Any = made.options(name="n", max_restarts=3, lifetime="detached")
    found = options._skate.options
    assert found.name == "n" and found.max_restarts == 3 and found.detached
    assert found.groups == (("a", 1), ("io", 2)) and dict(found.resources) == {"CPU": 20_000}


def test_class_travels_with_its_options(session: None) -> None:
    sent: Any = cloudpickle.loads(cloudpickle.dumps(Account_.options(num_cpus=0)))
    assert skate.get(sent.remote("bo").deposit.remote(3)) == 3
    assert sent._default_options == {"num_cpus": 0}


def test_method_of_an_unknown_group_fails_at_the_start(session: None) -> None:
    with pytest.raises(ValueError, match="'io'"):
        skate.remote(Grouped).remote()
    actor: Any = skate.remote(concurrency_groups={"io": 1})(Grouped).remote()
    assert skate.get(actor.read.remote()) == "r"
    with pytest.raises(ValueError, match="no concurrency group 'nope'"):
        actor.read.options(concurrency_group="nope")


def test_method_decorator_refuses_what_it_does_not_know() -> None:
    with pytest.raises(AssertionError, match="num_returns"):
        skate.method(colour=1)


# ---- handles ----


def test_methods_are_called_through_the_handle(account: Any) -> None:
    assert skate.get(account.deposit.remote(4)) == 5
    assert skate.get(account.deposit.remote(amount=skate.put(1))) == 6
    assert skate.get(account.inherited.remote()) == "inherited"
    assert skate.get(account._hidden.remote()) == 1
    assert skate.get(account.double.remote(4)) == 8
    assert skate.get(account.name.remote()) == "Account"
    assert skate.get(account.__call__.remote()) == "called"
    assert skate.get(account.both.remote()) == ["ada", 6]


def test_generator_methods_stream(account: Any) -> None:
    assert [skate.get(ref) for ref in account.history.remote()] == [1, 2]
    assert account.history._options.returns == STREAMING


def test_only_methods_are_visible(account: Any) -> None:
    for name in ("nope", "balance", "shown", "BANK"):
        with pytest.raises(AttributeError, match="Account has no method"):
            getattr(account, name)
    assert "deposit" in dir(account) and "shown" not in dir(account)


def test_method_needs_remote(account: Any) -> None:
    with pytest.raises(TypeError, match=r"deposit\.remote"):
        account.deposit(1)
    with pytest.raises(TypeError, match="not callable"):
        account()


def test_wrong_method_arguments_fail_at_once(account: Any) -> None:
    with pytest.raises(TypeError, match=r"calling Account\.deposit\(amount\)"):
        account.deposit.remote()
    with pytest.raises(TypeError, match="too many"):
        account.name.remote(1)


def test_method_options(account: Any) -> None:
    assert account.deposit.options(num_returns=0).remote(1) is None
    assert len(account.both.options(num_returns=2, name="x").remote()) == 2
    for options in ({"colour": 1}, {"num_cpus": 1}, {"num_returns": -3}, {"num_returns": "streaming"}):
        with pytest.raises(ValueError):
            account.deposit.options(**options)


def test_built_in_methods(account: Any) -> None:
    assert skate.get(account.__ray_ready__.remote())
    assert skate.get(account.__ray_call__.remote(lambda self, x: self.balance + x, 10)) == 11


def test_handle_is_its_actor(account: Any) -> None:
    other = Account_.remote("bo")
    same = pickle.loads(pickle.dumps(account))
    assert same == account and hash(same) == hash(account) and other != account != 5
    assert repr(account) == f"Actor(Account, {account._actor_id.hex()})"
    assert account._ray_actor_id == same._actor_id and len(account._actor_id.hex()) == 32
    assert isinstance(same, ActorHandle)


def test_bound_method_travels(account: Any) -> None:
    @skate.remote
    def use(method: Any) -> Any:
        return skate.get(method.remote(5))

    assert skate.get(use.remote(account.deposit)) == 6


def test_each_handle_counts_once() -> None:
    skate.init(engine="inline")
    account = Account_.remote("ada")
    key = account._skate.key
    method = account.deposit
    released.clear()
    del account
    assert key not in released  # the method keeps the actor
    del method
    assert list(released).count(key) == 1


def test_names_and_namespaces(session: None) -> None:
    first = Account_.options(name="acc").remote("ada")
    assert skate.get_actor("acc") == first == skate.get_actor("acc", namespace="tests")
    assert Account_.options(name="acc", get_if_exists=True).remote("bo") == first
    other = Account_.options(name="acc", namespace="else").remote("cy")
    assert skate.get_actor("acc", namespace="else") == other != first
    with pytest.raises(ValueError, match="nope"):
        skate.get_actor("nope")
    assert skate.util.list_named_actors() == ["acc"]
    assert {"name": "acc", "namespace": "else"} in skate.util.list_named_actors(all_namespaces=True)


def test_exit_actor_works_in_actors_only() -> None:
    with pytest.raises(TypeError, match="inside an actor"):
        skate.actor.exit_actor()
