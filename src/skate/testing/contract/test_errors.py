"""A task's exception at the caller: its kind, text, causes and way through tasks."""

import os
import threading

import pytest

from skate.testing.contract.tools import raised


class Custom(Exception):
    def __init__(self, message, code):
        super().__init__(message)
        self.message = message
        self.code = code

    def __reduce__(self):
        return (Custom, (self.message, self.code))


@pytest.fixture
def fail(ray):
    """A task that raises what it is given."""

    @ray.remote
    def fail(error):
        raise error

    return fail


@pytest.mark.parametrize(
    "error",
    [
        ValueError("v"),
        KeyError("k"),
        IndexError(3),
        AttributeError("a"),
        TypeError("t"),
        OSError(2, "missing", "file"),
        FileNotFoundError(2, "missing"),
        TimeoutError("slow"),
        ConnectionResetError("gone"),
        ZeroDivisionError("zero"),
        AssertionError("not so"),
        NotImplementedError(),
        ArithmeticError("sum"),
        MemoryError("full"),
        RecursionError("deep"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        Custom("own", 7),
    ],
    ids=lambda e: type(e).__name__,
)
def test_kind_of_the_cause_is_the_kind_at_the_caller(ray, fail, error):
    with pytest.raises(type(error)) as info:
        ray.get(fail.remote(error))
    assert isinstance(info.value, ray.exceptions.RayTaskError)
    assert isinstance(info.value, ray.exceptions.RayError)


def test_cause_is_the_original_exception(ray, fail):
    error = raised(lambda: ray.get(fail.remote(Custom("own", 7))))
    assert type(error.cause) is Custom
    assert (error.cause.message, error.cause.code) == ("own", 7)
    assert error.code == 7


def test_arguments_of_the_cause_are_those_of_the_error(ray, fail):
    error = raised(lambda: ray.get(fail.remote(ValueError("one", 2))))
    assert error.cause.args == ("one", 2)


def test_except_clause_for_a_parent_class_catches_it(ray, fail):
    with pytest.raises(OSError):
        ray.get(fail.remote(FileNotFoundError("x")))
    with pytest.raises(LookupError):
        ray.get(fail.remote(KeyError("x")))


def test_class_name_of_the_error_shows_both_kinds(ray, fail):
    error = raised(lambda: ray.get(fail.remote(KeyError("x"))))
    assert type(error).__name__ == "RayTaskError(KeyError)"


def test_text_has_task_name_kind_and_message(ray):
    @ray.remote
    def named_task():
        raise ValueError("the message")

    text = str(raised(lambda: ray.get(named_task.remote())))
    assert "named_task" in text and "ValueError" in text and "the message" in text


def test_text_shows_the_line_that_raised(ray):
    @ray.remote
    def f():
        raise ValueError("v")  # the very line

    text = str(raised(lambda: ray.get(f.remote())))
    assert "the very line" in text and "line " in text


def test_text_shows_a_chained_cause(ray):
    @ray.remote
    def f():
        try:
            {}["first trouble"]
        except KeyError as error:
            raise ValueError("second trouble") from error

    error = raised(lambda: ray.get(f.remote()))
    assert isinstance(error, ValueError)
    assert "first trouble" in str(error) and "second trouble" in str(error)


def test_text_shows_an_implicit_context(ray):
    @ray.remote
    def f():
        try:
            1 / 0  # noqa: B018
        except ZeroDivisionError:
            raise LookupError("while handling")  # noqa: B904

    text = str(raised(lambda: ray.get(f.remote())))
    assert "ZeroDivisionError" in text and "while handling" in text


def test_same_failed_ref_raises_at_every_get(ray, fail):
    ref = fail.remote(ValueError("again"))
    for _ in range(3):
        with pytest.raises(ValueError, match="again"):
            ray.get(ref)


def test_get_of_a_list_raises_when_one_failed(ray, fail):
    refs = [ray.put(1), fail.remote(KeyError("one of them")), ray.put(2)]
    with pytest.raises(KeyError):
        ray.get(refs)


def test_get_of_a_list_raises_the_first_in_the_list(ray, fail):
    refs = [fail.remote(KeyError("first")), fail.remote(ValueError("second"))]
    ray.wait(refs, num_returns=2)
    with pytest.raises(KeyError):
        ray.get(refs)
    with pytest.raises(ValueError):
        ray.get(refs[::-1])


def test_error_crosses_two_levels_of_tasks(ray, fail):
    @ray.remote
    def middle():
        return ray.get(fail.remote(Custom("far", 9)))

    @ray.remote
    def top():
        return ray.get(middle.remote())

    error = raised(lambda: ray.get(top.remote()))
    assert isinstance(error, Custom) and "far" in str(error)
    assert "middle" in str(error) and "top" in str(error)


def test_error_of_a_dependency_passes_down_a_chain(ray, fail, tally):
    @ray.remote
    def use(x):
        tally.add()
        return x

    ref = use.remote(use.remote(fail.remote(ValueError("at the root"))))
    with pytest.raises(ValueError, match="at the root"):
        ray.get(ref)
    assert tally.count() == 0


def test_error_of_a_keyword_dependency(ray, fail):
    @ray.remote
    def use(*, x):
        return x

    with pytest.raises(KeyError):
        ray.get(use.remote(x=fail.remote(KeyError("kw"))))


def test_failed_ref_inside_a_container_raises_at_the_inner_get(ray, fail):
    @ray.remote
    def use(box):
        try:
            ray.get(box[0])
        except ValueError:
            return "caught"

    assert ray.get(use.remote([fail.remote(ValueError("in the box"))])) == "caught"


def test_actor_method_gets_the_error_of_its_argument(ray, fail):
    @ray.remote
    class A:
        def f(self, x):
            return x

    a = A.remote()
    with pytest.raises(ValueError):
        ray.get(a.f.remote(fail.remote(ValueError("argument"))))
    assert ray.get(a.f.remote(1)) == 1


def test_failed_num_returns_are_ready_and_raise(ray):
    @ray.remote(num_returns=2)
    def f():
        raise ValueError("both")

    refs = f.remote()
    assert len(ray.wait(refs, num_returns=2, timeout=60)[0]) == 2
    with pytest.raises(ValueError):
        ray.get(refs)


def test_exception_with_an_unpicklable_attribute_still_reports(ray):
    class Heavy(Exception):
        def __init__(self, message):
            super().__init__(message)
            self.lock = threading.Lock()

    @ray.remote
    def f():
        raise Heavy("with a lock")

    with pytest.raises(ray.exceptions.RayError) as info:
        ray.get(f.remote())
    assert "with a lock" in str(info.value)


def test_exception_class_defined_inside_the_task(ray):
    @ray.remote
    def f():
        class Inner(RuntimeError):
            pass

        raise Inner("from within")

    with pytest.raises(RuntimeError, match="from within"):
        ray.get(f.remote())


def test_exception_group_reports_its_members(ray):
    @ray.remote
    def f():
        raise ExceptionGroup("several", [ValueError("one"), KeyError("two")])

    with pytest.raises(ray.exceptions.RayTaskError) as info:
        ray.get(f.remote())
    assert "one" in str(info.value) and "two" in str(info.value)


def test_stop_iteration_from_a_task_is_an_ordinary_error(ray):
    @ray.remote
    def f():
        raise StopIteration("enough")

    with pytest.raises(ray.exceptions.RayTaskError):
        ray.get(f.remote())


def test_keyboard_interrupt_in_a_task_is_a_cancellation(ray):
    @ray.remote(max_retries=0)
    def f():
        raise KeyboardInterrupt

    with pytest.raises(ray.exceptions.TaskCancelledError):
        ray.get(f.remote())


def test_unpicklable_result_raises_type_error(ray):
    @ray.remote
    def f():
        return threading.Lock()

    with pytest.raises(TypeError):
        ray.get(f.remote())


def test_task_works_after_a_failed_one_in_the_same_process(ray, fail):
    @ray.remote
    def ok():
        return os.getpid()

    for _ in range(3):
        with pytest.raises(ValueError):
            ray.get(fail.remote(ValueError()))
        assert ray.get(ok.remote()) > 0


def test_argument_that_cannot_be_rebuilt_fails_the_task(ray):
    class Broken:
        def __reduce__(self):
            return (int, ("not a number",))

    @ray.remote
    def f(x):
        return x

    with pytest.raises(ray.exceptions.RayError):
        ray.get(f.remote(Broken()), timeout=60)


def test_result_that_cannot_be_rebuilt_raises_at_get(ray):
    @ray.remote
    def f():
        class Broken:
            def __reduce__(self):
                return (int, ("not a number",))

        return Broken()

    with pytest.raises((ray.exceptions.RayError, ValueError)):
        ray.get(f.remote(), timeout=60)


def test_error_can_be_raised_again_by_the_driver(ray, fail):
    caught = raised(lambda: ray.get(fail.remote(ValueError("twice"))))
    with pytest.raises(ValueError, match="twice"):
        raise caught


def test_error_object_can_be_put_and_got(ray, fail):
    caught = raised(lambda: ray.get(fail.remote(ValueError("stored"))))
    again = ray.get(ray.put([caught]))[0]
    assert "stored" in str(again)


def test_timeout_error_is_a_builtin_timeout_error_too(ray):
    assert issubclass(ray.exceptions.GetTimeoutError, TimeoutError)
    assert issubclass(ray.exceptions.GetTimeoutError, ray.exceptions.RayError)


@pytest.mark.parametrize(
    ("child", "parent"),
    [
        ("RayTaskError", "RayError"),
        ("RayActorError", "RayError"),
        ("ActorDiedError", "RayActorError"),
        ("ActorUnavailableError", "RayActorError"),
        ("ActorUnschedulableError", "RayError"),
        ("ObjectLostError", "RayError"),
        ("ObjectFetchTimedOutError", "ObjectLostError"),
        ("OwnerDiedError", "ObjectLostError"),
        ("ReferenceCountingAssertionError", "ObjectLostError"),
        ("ObjectFreedError", "ObjectLostError"),
        ("ObjectReconstructionFailedError", "ObjectLostError"),
        ("NodeDiedError", "RayError"),
        ("RaySystemError", "RayError"),
        ("LocalRayletDiedError", "RayError"),
        ("CrossLanguageError", "RayError"),
        ("UserCodeException", "RayError"),
        ("AsyncioActorExit", "RayError"),
        ("ActorPlacementGroupRemoved", "RayError"),
        ("OutOfDiskError", "RayError"),
        ("RayChannelError", "RayError"),
    ],
)
def test_tree_of_exceptions(ray, child, parent):
    exceptions = ray.exceptions
    assert issubclass(getattr(exceptions, child), getattr(exceptions, parent))
