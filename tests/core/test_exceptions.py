"""Errors: Ray's names and bases, both classes at once, and pickling that loses nothing."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import gc
import inspect
import pickle
import subprocess
import sys
import weakref
from json import JSONDecodeError
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from skate import exceptions
from skate.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    GetTimeoutError,
    ObjectLostError,
    ObjectReconstructionFailedError,
    OutOfMemoryError,
    OwnerDiedError,
    RayActorError,
    RayError,
    RayTaskError,
    RuntimeEnvSetupError,
    TaskCancelledError,
    UnserializableException,
    WorkerCrashedError,
)

# Name and bases of every public class of ray.exceptions, Ray 2.60.0.
NAMES = {
    "RayError": ["Exception"],
    "CrossLanguageError": ["RayError"],
    "TaskCancelledError": ["RayError"],
    "RayTaskError": ["RayError"],
    "LocalRayletDiedError": ["RayError"],
    "WorkerCrashedError": ["RayError"],
    "RayActorError": ["RayError"],
    "ActorDiedError": ["RayActorError"],
    "ActorUnavailableError": ["RayActorError"],
    "RaySystemError": ["RayError"],
    "AuthenticationError": ["RayError"],
    "UserCodeException": ["RayError"],
    "ObjectStoreFullError": ["RayError"],
    "OutOfDiskError": ["RayError"],
    "OutOfMemoryError": ["RayError"],
    "NodeDiedError": ["RayError"],
    "ObjectLostError": ["RayError"],
    "ObjectFetchTimedOutError": ["ObjectLostError"],
    "RpcError": ["RayError"],
    "ReferenceCountingAssertionError": ["ObjectLostError", "AssertionError"],
    "ObjectFreedError": ["ObjectLostError"],
    "OwnerDiedError": ["ObjectLostError"],
    "ObjectReconstructionFailedError": ["ObjectLostError"],
    "GetTimeoutError": ["RayError", "TimeoutError"],
    "PlasmaObjectNotAvailable": ["RayError"],
    "AsyncioActorExit": ["RayError"],
    "RuntimeEnvSetupError": ["RayError"],
    "TaskPlacementGroupRemoved": ["RayError"],
    "ActorPlacementGroupRemoved": ["RayError"],
    "PendingCallsLimitExceeded": ["RayError"],
    "TaskUnschedulableError": ["RayError"],
    "ActorUnschedulableError": ["RayError"],
    "ObjectRefStreamEndOfStreamError": ["RayError"],
    "StreamingGeneratorReplayInconsistentError": ["RaySystemError"],
    "OufOfBandObjectRefSerializationException": ["RayError"],
    "RayChannelError": ["RaySystemError"],
    "RayChannelTimeoutError": ["RayChannelError", "TimeoutError"],
    "RayCgraphCapacityExceeded": ["RaySystemError"],
    "RayDirectTransportError": ["RaySystemError"],
    "UnserializableException": ["RayError"],
    "ActorAlreadyExistsError": ["ValueError", "RayError"],
    "ActorHandleNotFoundError": ["ValueError", "RayError"],
}

# What Ray has not.
OWN = {"DeadlockError": ["RayError"]}

TRACE = (
    "Traceback (most recent call last):\n  File \"job.py\", line 7, in work\n    return table[key]\nKeyError: 'dep'\n"
)


def task_error(cause: BaseException, **more: Any) -> RayTaskError:
    return RayTaskError("job.work", TRACE, cause, pid=71, **more)


def surfaced(cause: BaseException) -> Any:
    """What a caller of `get` sees of what a task raised."""
    return task_error(cause).as_instanceof_cause()


# Exceptions of users, at module level so that plain pickle finds them.


class Teapot(Exception):
    code = 0

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code = 418


class Joined(Exception):
    """Cannot be unpickled by Python itself: `args` are not what `__init__` takes."""

    def __init__(self, a: str, b: str) -> None:
        super().__init__(f"joined {a}-{b}")
        self.a = a


class KeywordOnly(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__(f"needs {code}")
        self.code = code


class PickledItsOwnWay(Exception):
    def __init__(self, *, code: int) -> None:
        self.code = code

    def __reduce__(self) -> Any:
        return _make_its_own_way, (self.code,)


def _make_its_own_way(code: int) -> PickledItsOwnWay:
    return PickledItsOwnWay(code=code + 1)


class Slotted(Exception):
    __slots__ = ("__private", "unset", "where")

    def __init__(self, where: str) -> None:
        self.where = where
        self.__private = where.upper()

    def private(self) -> str:
        return self.__private


class Meta(type):
    __hash__ = None  # type: ignore[assignment]


class Unhashable(Exception, metaclass=Meta):
    pass


class Refuses(Exception):
    def __init_subclass__(cls, **kwargs: Any) -> None:
        raise RuntimeError("final")


class OwnArgs(Exception):
    @property
    def args(self) -> tuple[Any, ...]:  # type: ignore[override]
        return (1, 2)


class OwnNew(Exception):
    def __new__(cls, first: int, second: int) -> OwnNew:
        return super().__new__(cls, first, second)

    def __init__(self, first: int, second: int) -> None:
        super().__init__(first)


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    code: int


class Shadowing(Exception):
    def __init__(self) -> None:
        super().__init__("mine")
        self.pid, self.function_name, self.cause = "my pid", "my function", "my cause"


class Dynamic(Exception):
    def __getattr__(self, name: str) -> str:
        if name.startswith("_"):
            raise AttributeError(name)
        return f"dynamic {name}"


class Group(ExceptionGroup):
    def __new__(cls, excs: list[Exception]) -> Group:
        return super().__new__(cls, "mine", excs)

    def __init__(self, excs: list[Exception]) -> None:
        self.count = len(excs)


CAUSES: list[BaseException] = [
    KeyError("dep"), Teapot("short"), Joined("p", "q"), KeywordOnly(code=4),
    PickledItsOwnWay(code=4), Slotted("here"), Unhashable("x"), OwnNew(1, 2), Frozen(3),
    Shadowing(), Dynamic("d"), FileNotFoundError(2, "nope", "/x"), StopIteration(5),
    UnicodeDecodeError("utf8", b"abc", 1, 2, "bad"), JSONDecodeError("m", "doc", 2),
    subprocess.CalledProcessError(2, "ls"), SyntaxError("s", ("f.py", 1, 2, "x = =")),
    ImportError("no", name="nowhere"), MemoryError("big"), ExceptionGroup("g", [ValueError(1)]),
    Group([ValueError(1)]), asyncio.CancelledError("c"), KeyboardInterrupt("k"), SystemExit(3),
    GeneratorExit("g"), WorkerCrashedError("dead"), GetTimeoutError("late"), ActorDiedError("gone"),
    TaskCancelledError(error_message="by hand"), UnserializableException("text"), OwnArgs("q"),
]  # fmt: skip
cause_of_each_kind = pytest.mark.parametrize("cause", CAUSES, ids=lambda e: type(e).__name__)


# ---- names ----


def test_names_and_bases_are_those_of_ray():
    ours = {
        name: [base.__name__ for base in cls.__bases__]
        for name, cls in vars(exceptions).items()
        if inspect.isclass(cls) and issubclass(cls, RayError) and not name.startswith("_")
    }
    assert ours == NAMES | OWN


def test_the_tree_in_the_docstring_names_every_class():
    assert exceptions.__doc__ is not None
    assert all(name in exceptions.__doc__ for name in NAMES | OWN)


PACKAGE = Path(exceptions.__file__).parent


def test_importing_the_errors_takes_no_heavy_module():
    # By its file: the front door imports more, for a session to start the sooner.
    code = (
        "import sys, types, importlib.util as u; sys.modules['skate'] = p = types.ModuleType('skate');"
        f"p.__path__ = [{str(PACKAGE)!r}]; import skate.exceptions; print(list(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not any(f"'{name}'" in out.stdout for name in ("logging", "pickle", "msgspec"))


# ---- both classes at once ----


@cause_of_each_kind
def test_error_is_an_instance_of_the_causes_class(cause):
    error = surfaced(cause)
    assert isinstance(error, RayTaskError) and isinstance(error, type(cause))
    assert error.cause is cause and error.args == (cause,)
    assert type(error).__name__ == f"RayTaskError({type(cause).__name__})"
    assert "line 7, in work" in str(error) and "pid=71" in str(error)
    with pytest.raises(type(cause)):
        raise error


def test_attributes_of_the_cause_are_its_own_not_its_classs_defaults():
    assert surfaced(Teapot("short")).code == 418


def test_attributes_of_compiled_exceptions_are_reachable():
    error = surfaced(FileNotFoundError(2, "nope", "/x"))
    assert (error.errno, error.strerror, error.filename) == (2, "nope", "/x")
    assert surfaced(SystemExit(3)).code == 3
    assert surfaced(StopIteration(5)).value == 5
    assert surfaced(UnicodeDecodeError("utf8", b"abc", 1, 2, "bad")).object == b"abc"
    assert surfaced(ImportError("no", name="nowhere")).name == "nowhere"


def test_slots_and_properties_and_dynamic_attributes_are_reachable():
    error = surfaced(Slotted("here"))
    assert error.where == "here" and error.private() == "HERE"
    with pytest.raises(AttributeError, match="unset"):
        _ = error.unset
    assert surfaced(Dynamic("d")).anything == "dynamic anything"
    with pytest.raises(AttributeError, match="nothing"):
        _ = surfaced(ValueError()).nothing


def test_the_causes_attributes_go_before_those_of_the_task_error():
    error = surfaced(Shadowing())
    assert (error.pid, error.function_name) == ("my pid", "my function")
    assert isinstance(error.cause, Shadowing)
    assert surfaced(KeyError("dep")).function_name == "job.work"


def test_str_shows_who_raised_and_where():
    actor = task_error(KeyError("dep"), proctitle="Table.read", actor_repr="<Table>", actor_id="ab")
    text = str(actor.as_instanceof_cause())
    assert text.startswith("Table.read() (pid=71, ip=127.0.0.1, actor_id=ab, repr=<Table>)\n")
    assert text.endswith("\n    return table[key]\nKeyError: 'dep'")
    assert str(task_error(KeyError("dep"))).startswith("job.work() (pid=71, ip=127.0.0.1)\n")


def test_the_init_of_the_causes_class_is_never_called(monkeypatch):
    cause, calls = Joined("p", "q"), []
    monkeypatch.setattr(Joined, "__init__", lambda *args: calls.append(args))
    error = pickle.loads(pickle.dumps(surfaced(cause)))
    assert error.a == "p" and error.cause.args == ("joined p-q",) and not calls


def test_an_inner_tasks_error_surfaces_as_its_own_cause():
    inner = surfaced(IndexError("inside"))
    outer = RayTaskError("outer", TRACE, inner)
    assert type(outer.cause) is IndexError
    assert isinstance(outer.as_instanceof_cause(), IndexError)
    assert type(RayTaskError("outer", TRACE, task_error(KeyError())).cause) is KeyError


@pytest.mark.parametrize("cause", [Exception("e"), BaseException("b"), RayError("r")])
def test_a_cause_of_a_general_class_leaves_the_plain_error(cause):
    error = task_error(cause)
    assert error.as_instanceof_cause() is error


@pytest.mark.parametrize("cause", [Refuses("x"), BaseExceptionGroup("g", [KeyboardInterrupt()])])
def test_a_class_that_allows_no_subclass_leaves_the_plain_error_and_says_so(cause, caplog):
    error = task_error(cause)
    assert error.as_instanceof_cause() is error and error.cause is cause
    assert "allows no subclass" in caplog.text and "job.work" in caplog.text


def test_exception_groups_can_be_taken_apart():
    error = surfaced(ExceptionGroup("g", [ValueError(1), KeyError(2)]))
    matched, rest = error.split(ValueError)
    assert [type(e) for e in matched.exceptions] == [ValueError]
    assert [type(e) for e in rest.exceptions] == [KeyError]


def test_the_class_of_an_error_is_made_once_and_goes_with_the_causes_class():
    assert type(surfaced(KeyError(1))) is type(surfaced(KeyError(2)))

    class Passing(Exception):
        pass

    gone = weakref.ref(Passing)
    surfaced(Passing())
    del Passing
    gc.collect()
    assert gone() is None


def test_surfacing_twice_changes_nothing():
    error = surfaced(KeyError("dep"))
    assert error.as_instanceof_cause() is error


# ---- pickling ----


@cause_of_each_kind
@pytest.mark.parametrize("module", [pickle, cloudpickle])
def test_errors_of_tasks_survive_pickling(cause, module):
    if isinstance(cause, Unhashable):
        return  # pickle looks classes up in a dict
    for error in (task_error(cause), surfaced(cause)):
        back = module.loads(module.dumps(error))
        assert type(back) is type(error) and str(back) == str(error)
        assert type(back.cause) is type(cause) and str(back.cause) == str(cause)
        assert set(vars(back)) == set(vars(error))


def test_attributes_survive_pickling():
    back = pickle.loads(pickle.dumps(surfaced(Joined("p", "q"))))
    assert back.a == "p" and str(back.cause) == "joined p-q"
    assert pickle.loads(pickle.dumps(surfaced(Slotted("here")))).private() == "HERE"
    assert pickle.loads(pickle.dumps(surfaced(OSError(2, "nope", "/x")))).filename == "/x"
    group = pickle.loads(pickle.dumps(surfaced(ExceptionGroup("g", [Joined("p", "q")]))))
    assert group.exceptions[0].a == "p" and group.message == "g"
    assert pickle.loads(pickle.dumps(surfaced(Group([ValueError(1)])))).count == 1


def test_a_class_that_says_how_to_pickle_it_is_pickled_so():
    assert pickle.loads(pickle.dumps(surfaced(PickledItsOwnWay(code=4)))).code == 5


def test_an_error_that_refers_to_itself_or_back_survives_pickling():
    one, two = Teapot("one"), Teapot("two")
    one.self, one.other, two.other = one, two, one  # type: ignore[attr-defined]
    assert pickle.loads(pickle.dumps(task_error(one))).cause.other.code == 418


def test_notes_survive_pickling():
    cause = Joined("p", "q")
    cause.add_note("see the manual")
    assert pickle.loads(pickle.dumps(surfaced(cause))).__notes__ == ["see the manual"]


EXAMPLES: list[RayError] = [
    exceptions.CrossLanguageError("java said no"),
    TaskCancelledError(task_id="ab", error_message="by hand"),
    TaskCancelledError("ab"),
    GetTimeoutError("after 3 s"),
    WorkerCrashedError("resize, pid 71, SIGKILL"),
    RayActorError("ab", "broken", actor_init_failed=True, preempted=True),
    ActorDiedError("Table, pid 71, SIGKILL", actor_id="ab", preempted=True),
    ActorDiedError(RayTaskError("Table.__init__", TRACE, KeyError("dep"), actor_id="ab")),
    ActorUnavailableError("restarting", b"\xab"),
    exceptions.RaySystemError("broken", "where"),
    exceptions.RayChannelTimeoutError("broken"),
    exceptions.AuthenticationError("no token"),
    OutOfMemoryError("9.8 GB"),
    exceptions.NodeDiedError("gone"),
    ObjectLostError(object_ref_hex="ab", call_site="job.py:7"),
    OwnerDiedError("ab", message="its worker, pid 71, was killed"),
    ObjectReconstructionFailedError("ab", reason="OBJECT_UNRECONSTRUCTABLE_PUT"),
    exceptions.ReferenceCountingAssertionError("ab", b"addr", ""),
    exceptions.RpcError("broken", rpc_code=7),
    RuntimeEnvSetupError("no such file"),
    exceptions.TaskUnschedulableError(error_message="no GPU"),
    exceptions.ActorUnschedulableError("no GPU"),
    UnserializableException("text"),
    exceptions.ActorAlreadyExistsError("taken"),
    exceptions.ActorHandleNotFoundError("old"),
    exceptions.TaskPlacementGroupRemoved("group ab"),
    exceptions.UserCodeException("wrapped"),
    exceptions.RayCgraphCapacityExceeded("10 results"),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda e: type(e).__name__)
def test_every_error_survives_pickling_and_copying(error):
    for back in (
        pickle.loads(pickle.dumps(error)),
        cloudpickle.loads(cloudpickle.dumps(error)),
        copy.copy(error),
        copy.deepcopy(error),
        RayError.from_bytes(error.to_bytes()),
    ):
        assert type(back) is type(error)
        assert str(back) == str(error) and str(error)
        assert repr(vars(back)) == repr(vars(error)) and repr(back.args) == repr(error.args)


def test_an_error_that_cannot_be_unpickled_keeps_its_text():
    data = pickle.dumps((b"broken", "KeyError: 'dep'"))
    error = RayError.from_bytes(data)
    assert isinstance(error, UnserializableException) and "KeyError: 'dep'" in str(error)


# ---- messages ----


@pytest.mark.parametrize("name", [
    "WorkerCrashedError", "LocalRayletDiedError", "GetTimeoutError", "ObjectStoreFullError",
    "OutOfDiskError", "TaskPlacementGroupRemoved", "ActorPlacementGroupRemoved",
    "PendingCallsLimitExceeded", "PlasmaObjectNotAvailable", "AsyncioActorExit",
    "ObjectRefStreamEndOfStreamError", "OufOfBandObjectRefSerializationException",
])  # fmt: skip
def test_an_error_without_a_message_says_its_own_and_with_one_says_that(name):
    cls = getattr(exceptions, name)
    assert len(str(cls())) > 20
    assert str(cls("resize, pid 71")) == "resize, pid 71"


def test_a_failed_constructor_shows_its_traceback():
    error = ActorDiedError(RayTaskError("A.__init__", TRACE, KeyError("dep"), actor_id="ab"))
    assert error.actor_init_failed and error.actor_id == "ab"
    assert "line 7, in work" in str(error) and "A.__init__()" in str(error)
    surfaced_too = RayTaskError("A.__init__", TRACE, KeyError(), actor_id="ab").as_instanceof_cause()
    assert ActorDiedError(surfaced_too).actor_id == "ab"
    assert ActorDiedError.from_task_error(surfaced_too).actor_init_failed


def test_an_actors_death_takes_a_plain_message():
    error = ActorDiedError("Table, pid 71, SIGKILL", actor_id="ab")
    assert str(error) == error.error_msg == "Table, pid 71, SIGKILL"
    assert (error.actor_id, error.actor_init_failed, error.preempted) == ("ab", False, False)
    assert str(ActorDiedError()) == ActorDiedError.BASE_ERROR_MSG


def test_an_unavailable_actor_says_which_and_that_the_call_may_have_run():
    error = ActorUnavailableError("it restarts", b"\xab\xcd")
    assert error.actor_id == "abcd" and "abcd" in str(error) and "it restarts" in str(error)
    assert ActorUnavailableError("it restarts", None).actor_id is None


def test_a_cancelled_task_says_which_and_why():
    assert str(TaskCancelledError("ab", "by hand")) == "Task ab was cancelled. by hand"
    assert str(TaskCancelledError()) == "The task was cancelled."


def test_a_lost_object_says_which_and_where_it_was_made():
    text = str(OwnerDiedError("ab", b"", "job.py:7"))
    assert "ab" in text and "job.py:7" in text and "ended" in text
    failed = ObjectReconstructionFailedError("ab", "OBJECT_UNRECONSTRUCTABLE_PUT")
    assert "put()" in failed.reason_message and failed.reason_message in str(failed)
    assert "own words" in str(ObjectReconstructionFailedError("ab", reason_message="own words"))
