"""Names, namespaces, get_if_exists, detached actors."""

import gc
import time

import pytest

from skate.testing.contract.tools import eventually, raised

INIT = {"namespace": "contract"}


@pytest.fixture
def box(ray):
    @ray.remote
    class Box:
        def __init__(self, value=None):
            self.value = value

        def get(self):
            return self.value

        def set(self, value):
            self.value = value

    return Box


def _found(ray, name, namespace=None):
    return raised(lambda: ray.get_actor(name, namespace=namespace)) is None


def test_found_handle_is_the_same_actor(ray, box, fresh_name):
    a = box.options(name=fresh_name).remote(1)
    found = ray.get_actor(fresh_name)
    assert found == a
    ray.get(found.set.remote(2))
    assert ray.get(a.get.remote()) == 2


def test_name_can_be_given_in_the_decorator(ray, fresh_name):
    @ray.remote(name=fresh_name)
    class A:
        def f(self):
            return 1

    a = A.remote()
    assert ray.get_actor(fresh_name) == a


def test_unknown_name_raises_value_error_with_the_name(ray, fresh_name):
    with pytest.raises(ValueError, match=fresh_name):
        ray.get_actor(fresh_name)


def test_name_of_another_type_is_refused(ray):
    with pytest.raises((TypeError, ValueError)):
        ray.get_actor(5)


def test_actor_is_found_within_tasks_and_actors(ray, box, fresh_name):
    a = box.options(name=fresh_name).remote("found")

    @ray.remote
    def look():
        return ray.get(ray.get_actor(fresh_name).get.remote())

    @ray.remote
    class Looker:
        def look(self):
            return ray.get(ray.get_actor(fresh_name).get.remote())

    assert ray.get([look.remote(), Looker.remote().look.remote()]) == ["found", "found"]
    del a


def test_taken_name_has_an_error_class_of_its_own(ray, box, fresh_name):
    a = box.options(name=fresh_name).remote()
    error = raised(lambda: box.options(name=fresh_name).remote())
    assert isinstance(error, ray.exceptions.ActorAlreadyExistsError)
    assert isinstance(error, ValueError) and fresh_name in str(error)
    del a


def test_same_name_in_two_namespaces(ray, box, fresh_name):
    a = box.options(name=fresh_name, namespace="north").remote("n")
    b = box.options(name=fresh_name, namespace="south").remote("s")
    assert ray.get(ray.get_actor(fresh_name, namespace="north").get.remote()) == "n"
    assert ray.get(ray.get_actor(fresh_name, "south").get.remote()) == "s"
    assert not _found(ray, fresh_name)
    del a, b


def test_own_namespace_named_explicitly(ray, box, fresh_name):
    a = box.options(name=fresh_name).remote()
    assert ray.get_actor(fresh_name, namespace="contract") == a


def test_get_if_exists_makes_then_finds(ray, box, fresh_name):
    options = {"name": fresh_name, "get_if_exists": True}
    a = box.options(**options).remote("first")
    b = box.options(**options).remote("second")
    assert a == b and ray.get(b.get.remote()) == "first"


def test_get_if_exists_from_many_tasks_makes_one_actor(ray, box, fresh_name):
    @ray.remote
    def visit(i):
        a = box.options(name=fresh_name, get_if_exists=True, lifetime="detached").remote(i)
        return ray.get(a.get.remote())

    assert len(set(ray.get([visit.remote(i) for i in range(4)]))) == 1
    ray.kill(ray.get_actor(fresh_name))


def test_named_actor_ends_with_its_last_handle(ray, box, fresh_name):
    a = box.options(name=fresh_name).remote()
    ray.get(a.get.remote())
    del a
    gc.collect()
    assert eventually(lambda: not _found(ray, fresh_name))


def test_found_handle_does_not_keep_the_actor_alive(ray, box, fresh_name):
    a = box.options(name=fresh_name).remote()
    ray.get(a.get.remote())
    found = ray.get_actor(fresh_name)
    del a
    gc.collect()
    assert eventually(
        lambda: isinstance(
            raised(lambda: ray.get(found.get.remote(), timeout=60)),
            ray.exceptions.RayActorError,
        )
    )


def test_detached_actor_outlives_its_handle(ray, box, fresh_name):
    a = box.options(name=fresh_name, lifetime="detached").remote("stays")
    ray.get(a.get.remote())
    del a
    gc.collect()
    time.sleep(0.5)
    found = ray.get_actor(fresh_name)
    assert ray.get(found.get.remote()) == "stays"
    ray.kill(found)
    assert eventually(lambda: not _found(ray, fresh_name))


def test_killed_name_is_unknown_and_can_be_taken_again(ray, box, fresh_name):
    a = box.options(name=fresh_name).remote("old")
    ray.get(a.get.remote())
    ray.kill(a)
    assert eventually(lambda: not _found(ray, fresh_name))
    b = box.options(name=fresh_name).remote("new")
    assert ray.get(ray.get_actor(fresh_name).get.remote()) == "new"
    del b


def test_name_of_a_failed_constructor_is_free_once_the_handle_is_gone(ray, fresh_name):
    @ray.remote
    class Bad:
        def __init__(self):
            raise ValueError

        def f(self):
            pass

    a = Bad.options(name=fresh_name).remote()
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(a.f.remote())
    del a
    gc.collect()
    assert eventually(lambda: not _found(ray, fresh_name))


def test_listing_of_the_own_namespace(ray, box, fresh_name):
    a = box.options(name=fresh_name).remote()
    b = box.options(name=fresh_name + "x", namespace="elsewhere").remote()
    ray.get([a.get.remote(), b.get.remote()])
    assert fresh_name in ray.util.list_named_actors()
    assert fresh_name + "x" not in ray.util.list_named_actors()
    everywhere = ray.util.list_named_actors(all_namespaces=True)
    assert {"name": fresh_name, "namespace": "contract"} in everywhere
    assert {"name": fresh_name + "x", "namespace": "elsewhere"} in everywhere


def test_dead_actor_is_not_listed(ray, box, fresh_name):
    a = box.options(name=fresh_name).remote()
    ray.get(a.get.remote())
    ray.kill(a)
    assert eventually(lambda: fresh_name not in ray.util.list_named_actors())


def test_child_of_a_detached_actor_lives_on_with_it(ray, box, fresh_name):
    @ray.remote
    class Parent:
        def __init__(self):
            self.child = box.remote("child")

        def ask(self):
            return ray.get(self.child.get.remote())

    parent = Parent.options(name=fresh_name, lifetime="detached").remote()
    ray.get(parent.ask.remote())
    del parent
    gc.collect()
    time.sleep(0.3)
    parent = ray.get_actor(fresh_name)
    assert ray.get(parent.ask.remote()) == "child"
    ray.kill(parent)


def test_method_options_survive_a_lookup(ray, fresh_name):
    @ray.remote
    class A:
        @ray.method(num_returns=2)
        def pair(self):
            return 1, 2

    a = A.options(name=fresh_name).remote()
    x, y = ray.get_actor(fresh_name).pair.remote()
    assert ray.get([x, y]) == [1, 2]
    del a
