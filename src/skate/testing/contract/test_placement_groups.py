"""Placement groups: resources set aside for calls that name the group."""

from __future__ import annotations

import importlib
import os
import pickle
import time

import pytest

from skate.testing.contract.marks import differs_on_ray, ends_a_process, needs_background, not_yet
from skate.testing.contract.target import PACKAGE
from skate.testing.contract.tools import eventually, raised

INIT = {"num_cpus": 4, "num_gpus": 2, "resources": {"gem": 2}}

one_node_for_all = not_yet("inline", raises=AssertionError, reason="calls of one bundle do not wait for each other")


@pytest.fixture
def util(ray):
    return importlib.import_module(f"{PACKAGE}.util")


@pytest.fixture
def inside():
    """The strategy for placement groups."""
    return importlib.import_module(f"{PACKAGE}.util.scheduling_strategies").PlacementGroupSchedulingStrategy


@pytest.fixture
def make(ray, util):
    """Makes groups, and removes them when the case is over."""
    made = []

    def make(bundles, **options):
        made.append(util.placement_group(bundles, **options))
        return made[-1]

    yield make
    for group in made:
        util.remove_placement_group(group)
    assert eventually(lambda: ray.available_resources().get("gem") == 2 and ray.available_resources().get("CPU") == 4)


def group_of_caller(ray):
    @ray.remote
    def where():
        context = ray.get_runtime_context()
        return context.get_placement_group_id(), context.should_capture_child_tasks_in_placement_group

    return where


def here(ray, **options):
    class Here:
        def group(self):
            return ray.get_runtime_context().get_placement_group_id()

        def pid(self):
            return os.getpid()

        def die(self):
            os._exit(1)

    return ray.remote(**options)(Here) if options else ray.remote(Here)


# ---------------------------------------------------------------------------- groups


def test_a_group_is_ready_when_it_has_its_resources(ray, make):
    group = make([{"CPU": 1}, {"CPU": 1, "gem": 0.5}])
    assert ray.get(group.ready(), timeout=60) == group
    assert group.wait(30) is True
    assert group.bundle_specs == [{"CPU": 1.0}, {"CPU": 1.0, "gem": 0.5}]
    assert group.bundle_count == 2
    assert not group.is_empty


def test_its_resources_are_not_for_others(ray, make):
    assert make([{"gem": 1.5}]).wait(30)
    assert eventually(lambda: ray.available_resources().get("gem") == 0.5)
    assert ray.cluster_resources()["gem"] == 2


def test_removal_gives_everything_back_and_may_be_repeated(ray, util, make):
    group = make([{"gem": 2}])
    assert group.wait(30)
    util.remove_placement_group(group)
    util.remove_placement_group(group)
    assert eventually(lambda: ray.available_resources().get("gem") == 2)


def test_a_group_that_has_to_wait_gets_its_turn(ray, util, make):
    first, second = make([{"gem": 2}]), make([{"gem": 1}])
    assert first.wait(30) and second.wait(0.5) is False
    ref = second.ready()
    assert ray.wait([ref], timeout=0.1)[0] == []
    util.remove_placement_group(first)
    assert ray.get(ref, timeout=60) == second


def test_a_group_that_does_not_fit_holds_up_nobody(ray, make):
    assert make([{"CPU": 2}]).wait(30)
    large, small = make([{"CPU": 4}]), make([{"CPU": 1}])
    assert small.wait(30) and large.wait(0.1) is False


@pytest.mark.parametrize(
    "bundles", [[], {}, [{}], [{"CPU": 0}], [{"CPU": "1"}], [{1: 1}], [1], ({"CPU": 1},), None], ids=repr
)
def test_bundles_that_cannot_be_are_refused(util, bundles):
    with pytest.raises(ValueError):
        util.placement_group(bundles)


@differs_on_ray("it accepts them, and what is run there hangs")
@pytest.mark.parametrize("bundle", [{"CPU": -1}, {"CPU": float("nan")}, {"GPU": 1.5}, {"CPU": 1e-9}], ids=repr)
def test_amounts_that_cannot_be_are_refused(util, bundle):
    with pytest.raises(ValueError):
        util.placement_group([bundle])


@pytest.mark.parametrize(
    "options",
    [
        {"strategy": "X"}, {"strategy": 3}, {"lifetime": "x"}, {"_soft_target_node_id": "ab"},
        {"strategy": "STRICT_PACK", "_soft_target_node_id": "ab"}, {"bundle_label_selector": []},
        {"bundle_label_selector": [{"a": "b c"}]}, {"bundle_label_selector": {"a": "b"}},
        {"bundle_label_selector": ["a"]}, {"strategy": "PACK", "topology_strategy": {"a": "STRICT_PACK"}},
        {"topology_strategy": {"a": "SPREAD"}},
        {"topology_strategy": {"a": "STRICT_PACK", "b": "STRICT_PACK"}},
    ],
    ids=repr,
)  # fmt: skip
def test_options_that_cannot_be_are_refused(util, options):
    with pytest.raises(ValueError):
        util.placement_group([{"CPU": 1}], **options)


@pytest.mark.parametrize("name", [3, None])
def test_a_name_is_a_string(util, name):
    with pytest.raises(TypeError):
        util.placement_group([{"CPU": 1}], name=name)


@pytest.mark.parametrize("strategy", [None, "PACK", "SPREAD", "STRICT_PACK"])
def test_one_node_takes_all_bundles_unless_told_otherwise(make, strategy):
    assert make([{"CPU": 1}, {"CPU": 1}], strategy=strategy).wait(30)


def test_bundles_that_must_not_share_a_node_wait_for_another(make):
    assert make([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD").wait(0.5) is False


def test_groups_compare_by_their_ids_and_travel(ray, make):
    one, two = make([{"CPU": 1}]), make([{"CPU": 1}])
    copy = pickle.loads(pickle.dumps(one))
    assert copy == one and hash(copy) == hash(one) and one != two and one != 3
    assert copy.bundle_specs == [{"CPU": 1.0}]
    assert len(one.id.binary()) == 18 and one.id.hex() == copy.id.hex()


def test_the_empty_group_is_ready(ray, util):
    group = importlib.import_module(f"{PACKAGE}.util.placement_group").PlacementGroup.empty()
    assert group.is_empty and group.id.is_nil()
    assert ray.get(group.ready(), timeout=60) == group


# ----------------------------------------------------------------------------- names


def test_a_named_group_is_found_until_it_is_removed(util, make, fresh_name):
    group = make([{"CPU": 1}], name=fresh_name)
    found = util.get_placement_group(fresh_name)
    assert found == group and found.bundle_specs == [{"CPU": 1.0}]
    util.remove_placement_group(group)
    with pytest.raises(ValueError):
        util.get_placement_group(fresh_name)
    assert make([{"CPU": 1}], name=fresh_name) != group


@pytest.mark.parametrize("name", ["", "nobody-has-this-name"])
def test_a_name_that_no_group_has_is_a_value_error(util, name):
    with pytest.raises(ValueError):
        util.get_placement_group(name)


def test_a_name_belongs_to_one_group(ray, make, fresh_name):
    make([{"CPU": 1}], name=fresh_name)
    error = raised(lambda: make([{"CPU": 1}], name=fresh_name))
    assert isinstance(error, ray.exceptions.RaySystemError) and fresh_name in str(error)


@differs_on_ray("it is a RaySystemError alone")
def test_a_taken_name_is_a_value_error_too(make, fresh_name):
    make([{"CPU": 1}], name=fresh_name)
    with pytest.raises(ValueError):
        make([{"CPU": 1}], name=fresh_name)


# ----------------------------------------------------------------------------- table


def test_the_table_shows_a_group(ray, util, make, fresh_name):
    group = make([{"CPU": 1}, {"gem": 1}], name=fresh_name, strategy="SPREAD")
    assert group.wait(30)
    row = util.placement_group_table(group)
    assert row["placement_group_id"] == group.id.hex() and row["name"] == fresh_name
    assert row["strategy"] == "SPREAD" and row["state"] == "CREATED"
    assert row["bundles"] == {0: {"CPU": 1.0}, 1: {"gem": 1.0}}
    node = ray.get_runtime_context().get_node_id()
    assert row["bundles_to_node_id"] == {0: node, 1: node}
    assert set(row["stats"]) >= {"end_to_end_creation_latency_ms", "scheduling_state"}
    assert util.placement_group_table()[group.id.hex()]["state"] == "CREATED"


def test_the_table_shows_what_waits_and_what_is_gone(util, make):
    group = make([{"CPU": 99}])
    assert util.placement_group_table(group)["state"] == "PENDING"
    util.remove_placement_group(group)
    assert eventually(lambda: util.placement_group_table(group)["state"] == "REMOVED")


def test_the_table_has_nothing_on_an_unknown_group(ray, util):
    module = importlib.import_module(f"{PACKAGE}.util.placement_group")
    assert util.placement_group_table(module.PlacementGroup(ray.PlacementGroupID.from_random())) == {}


# ----------------------------------------------------------------------- tasks inside


def test_a_task_knows_its_group(ray, util, make, inside):
    group = make([{"CPU": 1}])
    where = group_of_caller(ray)
    assert ray.get(where.options(scheduling_strategy=inside(group)).remote(), timeout=60) == (group.id.hex(), False)
    assert ray.get(where.remote(), timeout=60) == (None, False)
    assert util.get_current_placement_group() is None


def test_the_older_options_name_a_group_too(ray, make):
    group = make([{"CPU": 1}, {"CPU": 1}])
    where = group_of_caller(ray).options(
        placement_group=group, placement_group_bundle_index=1, placement_group_capture_child_tasks=True
    )
    assert ray.get(where.remote(), timeout=60) == (group.id.hex(), True)


def test_a_group_is_named_once(ray, make, inside):
    group = make([{"CPU": 1}])
    with pytest.raises(ValueError):
        group_of_caller(ray).options(placement_group=group, scheduling_strategy=inside(group)).remote()


def test_no_group_is_a_wish_too(ray, inside):
    where = group_of_caller(ray)
    assert ray.get(where.options(scheduling_strategy=inside(None)).remote(), timeout=60) == (None, False)
    assert ray.get(where.options(placement_group=None).remote(), timeout=60) == (None, False)


@pytest.mark.parametrize("number", [2, -2])
def test_a_bundle_that_is_not_there_is_refused(ray, make, inside, number):
    group = make([{"CPU": 1}, {"CPU": 1}])
    with pytest.raises(ValueError):
        group_of_caller(ray).options(scheduling_strategy=inside(group, number)).remote()


def test_a_bundle_without_a_group_is_refused(ray, inside):
    with pytest.raises(ValueError):
        group_of_caller(ray).options(scheduling_strategy=inside(None, 1)).remote()
    with pytest.raises(ValueError):
        group_of_caller(ray).options(placement_group_bundle_index=1).remote()


def test_a_request_that_fits_no_bundle_is_refused(ray, make, inside):
    group = make([{"CPU": 1}, {"CPU": 1}])
    with pytest.raises(ValueError):
        group_of_caller(ray).options(num_cpus=2, scheduling_strategy=inside(group)).remote()
    with pytest.raises(ValueError):
        here(ray, num_cpus=2).options(scheduling_strategy=inside(group)).remote()


def test_an_actor_needs_a_cpu_to_start(ray, make, inside):
    group = make([{"gem": 1}])
    with pytest.raises(ValueError):
        here(ray).options(scheduling_strategy=inside(group)).remote()


@differs_on_ray("such a call waits for ever")
def test_a_request_that_does_not_fit_the_bundle_that_it_names_is_refused(ray, make, inside):
    group = make([{"CPU": 1}, {"gem": 1}])
    with pytest.raises(ValueError):
        group_of_caller(ray).options(scheduling_strategy=inside(group, 1)).remote()


@needs_background
def test_calls_of_a_bundle_take_turns(ray, make, inside):
    group = make([{"CPU": 1}])

    @ray.remote
    def nap():
        began = time.time()
        time.sleep(0.3)
        return began

    naps = [nap.options(scheduling_strategy=inside(group)).remote() for _ in range(2)]
    one, two = ray.get(naps, timeout=60)
    assert abs(one - two) > 0.25


@needs_background
def test_calls_in_several_bundles_run_side_by_side(ray, make, inside):
    group = make([{"CPU": 1}, {"CPU": 1}, {"CPU": 1}])

    @ray.remote
    def meet(folder, number):
        open(f"{folder}/{number}", "w").close()
        while len(os.listdir(folder)) < 3:
            time.sleep(0.01)
        return number

    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        calls = [meet.options(scheduling_strategy=inside(group)).remote(folder, number) for number in range(3)]
        assert ray.get(calls, timeout=150) == [0, 1, 2]


def test_a_task_that_needs_nothing_runs_in_a_group(ray, make, inside):
    group = make([{"gem": 1}])
    where = group_of_caller(ray).options(num_cpus=0, scheduling_strategy=inside(group))
    assert ray.get(where.remote(), timeout=60) == (group.id.hex(), False)


def test_a_task_waits_for_its_group(ray, util, make, inside):
    first, second = make([{"gem": 2}]), make([{"gem": 2, "CPU": 1}])
    assert first.wait(30)
    ref = group_of_caller(ray).options(scheduling_strategy=inside(second)).remote()
    assert ray.wait([ref], timeout=0.5)[0] == []
    util.remove_placement_group(first)
    assert ray.get(ref, timeout=60) == (second.id.hex(), False)


def test_memory_and_custom_resources_are_shared_out_by_bundle(ray, make, inside):
    group = make([{"CPU": 0.5, "memory": 1000}, {"gem": 0.5}])
    where = group_of_caller(ray)
    strategy = inside(group)
    one = where.options(num_cpus=0.5, memory=1000, scheduling_strategy=strategy).remote()
    two = where.options(num_cpus=0, resources={"gem": 0.25}, scheduling_strategy=strategy).remote()
    assert ray.get([one, two], timeout=60) == [(group.id.hex(), False)] * 2


def test_a_bundle_has_its_gpu(ray, make, inside):
    group = make([{"GPU": 1, "CPU": 1}, {"GPU": 0.5, "CPU": 1}])
    assert group.wait(30)

    @ray.remote(num_cpus=0, num_gpus=0.5)
    def gpus():
        return ray.get_runtime_context().get_accelerator_ids()["GPU"], os.environ["CUDA_VISIBLE_DEVICES"]

    found = [ray.get(gpus.options(scheduling_strategy=inside(group, n)).remote(), timeout=60) for n in (0, 1)]
    assert all(len(numbers) == 1 and numbers[0] == visible for numbers, visible in found)
    assert found[0] != found[1]


# ------------------------------------------------------------------------ in workers


def test_workers_make_find_and_remove_groups(ray, util, make, fresh_name):
    @ray.remote(num_cpus=0)
    def make_one(name):
        group = util.placement_group([{"gem": 1}], name=name)
        return ray.get(group.ready()), group.wait(10), group.bundle_specs

    @ray.remote(num_cpus=0)
    def remove(name):
        group = util.get_placement_group(name)
        util.remove_placement_group(group)
        return util.placement_group_table(group)["placement_group_id"]

    group, ready, bundles = ray.get(make_one.remote(fresh_name), timeout=60)
    assert ready and bundles == [{"gem": 1.0}]
    assert util.get_placement_group(fresh_name) == group, "it outlives the task that made it"
    assert ray.get(remove.remote(fresh_name), timeout=60) == group.id.hex()
    assert eventually(lambda: ray.available_resources().get("gem") == 2)


def test_a_group_that_travels_can_be_waited_for(ray, make):
    group = make([{"CPU": 1}])

    @ray.remote(num_cpus=0)
    def look(group):
        return group.wait(10), group.bundle_count, ray.get(group.ready()) == group

    assert ray.get(look.remote(group), timeout=60) == (True, 1, True)


@ends_a_process
def test_a_group_outlives_the_actor_that_made_it(ray, util, make):
    @ray.remote(num_cpus=0)
    class Maker:
        def make(self):
            return util.placement_group([{"gem": 1}])

    maker = Maker.remote()
    group = ray.get(maker.make.remote(), timeout=60)
    ray.kill(maker)
    time.sleep(0.5)
    assert util.placement_group_table(group)["state"] == "CREATED"
    util.remove_placement_group(group)


# -------------------------------------------------------------------------- capturing


def test_what_a_task_starts_stays_outside_unless_captured(ray, make, inside):
    group = make([{"CPU": 2}])
    where = group_of_caller(ray)

    @ray.remote
    def parent():
        return ray.get(where.remote())

    assert ray.get(parent.options(scheduling_strategy=inside(group)).remote(), timeout=60) == (None, False)


def test_what_a_task_starts_goes_into_a_capturing_group(ray, make, inside):
    group = make([{"CPU": 2}])
    where, actor = group_of_caller(ray), here(ray)

    @ray.remote
    def parent():
        inner = actor.remote()
        return ray.get(where.remote()), ray.get(inner.group.remote())

    strategy = inside(group, placement_group_capture_child_tasks=True)
    task, actors = ray.get(parent.options(scheduling_strategy=strategy).remote(), timeout=60)
    assert task == (group.id.hex(), True) and actors == group.id.hex()


@pytest.mark.parametrize("options", [{"scheduling_strategy": "DEFAULT"}, {"scheduling_strategy": "SPREAD"},
                                     {"placement_group": None}], ids=repr)  # fmt: skip
def test_a_child_with_a_strategy_of_its_own_stays_outside(ray, make, inside, options):
    group = make([{"CPU": 2}])
    where = group_of_caller(ray)

    @ray.remote
    def parent():
        return ray.get(where.options(**options).remote())

    strategy = inside(group, placement_group_capture_child_tasks=True)
    assert ray.get(parent.options(scheduling_strategy=strategy).remote(), timeout=60) == (None, False)


def test_the_group_called_default_is_the_callers_where_that_captures(ray, make, inside):
    group = make([{"CPU": 2}])
    where = group_of_caller(ray).options(scheduling_strategy=inside("default"))
    assert ray.get(where.remote(), timeout=60) == (None, False)

    @ray.remote
    def parent():
        return ray.get(where.remote())

    strategy = inside(group, placement_group_capture_child_tasks=True)
    assert ray.get(parent.options(scheduling_strategy=strategy).remote(), timeout=60) == (group.id.hex(), True)


def test_what_an_actor_starts_is_captured(ray, util, make, inside):
    group = make([{"CPU": 2}])
    where = group_of_caller(ray)

    @ray.remote
    class Parent:
        def child(self):
            return ray.get(where.remote())

        async def current(self):
            return util.get_current_placement_group()

    strategy = inside(group, placement_group_capture_child_tasks=True)
    parent = Parent.options(scheduling_strategy=strategy).remote()
    assert ray.get(parent.child.remote(), timeout=60) == (group.id.hex(), True)
    assert ray.get(parent.current.remote(), timeout=60) == group


def test_a_captured_child_that_does_not_fit_fails(ray, make, inside):
    group = make([{"CPU": 1}])
    where = group_of_caller(ray)

    @ray.remote
    def parent():
        try:
            return ray.get(where.options(num_cpus=2).remote())
        except ValueError:
            return "refused"

    strategy = inside(group, placement_group_capture_child_tasks=True)
    assert ray.get(parent.options(scheduling_strategy=strategy).remote(), timeout=60) == "refused"


def test_a_task_that_waits_for_its_child_lends_it_the_bundle(ray, make, inside):
    group = make([{"CPU": 1}])
    where = group_of_caller(ray)

    @ray.remote
    def parent():
        return ray.get(where.remote())

    strategy = inside(group, 0, placement_group_capture_child_tasks=True)
    parents = [parent.options(scheduling_strategy=strategy).remote() for _ in range(3)]
    assert ray.get(parents, timeout=150) == [(group.id.hex(), True)] * 3


# ----------------------------------------------------------------------------- actors


def test_actors_live_in_groups(ray, make, inside):
    group = make([{"CPU": 1}])
    cls = here(ray)
    actors = [
        cls.options(scheduling_strategy=inside(group)).remote(),
        cls.options(num_cpus=1, scheduling_strategy=inside(group, 0)).remote(),
        cls.options(num_cpus=0, scheduling_strategy=inside(group)).remote(),
    ]
    assert ray.get([actor.group.remote() for actor in actors], timeout=60) == [group.id.hex()] * 3


@one_node_for_all
def test_actors_that_hold_a_bundle_keep_others_out(ray, make, inside):
    group = make([{"CPU": 1}, {"CPU": 1}])
    cls = here(ray, num_cpus=1)
    first = cls.options(scheduling_strategy=inside(group, 0)).remote()
    assert ray.get(first.group.remote(), timeout=60) == group.id.hex()
    second = cls.options(scheduling_strategy=inside(group, 0)).remote()
    ref = second.group.remote()
    assert ray.wait([ref], timeout=0.5)[0] == []
    third = cls.options(scheduling_strategy=inside(group, 1)).remote()
    assert ray.get(third.group.remote(), timeout=60) == group.id.hex()
    ray.kill(first)
    assert ray.get(ref, timeout=60) == group.id.hex()


@ends_a_process
def test_a_restarted_actor_is_in_its_group_again(ray, make, inside):
    group = make([{"CPU": 1}])
    actor = here(ray, num_cpus=1, max_restarts=1, max_task_retries=-1).options(scheduling_strategy=inside(group))
    actor = actor.remote()
    before = ray.get(actor.pid.remote(), timeout=60)
    ray.kill(actor, no_restart=False)
    assert ray.get(actor.group.remote(), timeout=60) == group.id.hex()
    assert ray.get(actor.pid.remote(), timeout=60) != before


# ---------------------------------------------------------------------------- removal


def test_who_waits_for_a_removed_group_is_told(ray, util, make):
    group = make([{"CPU": 99}])
    ref = group.ready()
    util.remove_placement_group(group)
    for waited in (ref, group.ready()):
        with pytest.raises(ray.exceptions.TaskPlacementGroupRemoved):
            ray.get(waited, timeout=60)
    with pytest.raises(Exception):  # noqa: B017  a plain one in Ray
        group.wait(5)


def test_who_was_ready_stays_so(ray, util, make):
    group = make([{"CPU": 1}])
    ref = group.ready()
    assert ray.get(ref, timeout=60) == group
    util.remove_placement_group(group)
    assert ray.get(ref, timeout=60) == group


@needs_background
def test_removal_fails_a_task_that_waits_for_room(ray, util, make, inside):
    group = make([{"CPU": 1}])

    @ray.remote(max_retries=0)
    def nap(seconds):
        time.sleep(seconds)

    nap = nap.options(scheduling_strategy=inside(group))
    ray.get(nap.remote(0), timeout=60)
    running = nap.remote(60)
    time.sleep(0.5)
    waiting = nap.remote(0)
    time.sleep(0.5)
    util.remove_placement_group(group)
    with pytest.raises(ray.exceptions.TaskPlacementGroupRemoved):
        ray.get(waiting, timeout=60)
    with pytest.raises(ray.exceptions.WorkerCrashedError):
        ray.get(running, timeout=60)


@needs_background
@differs_on_ray("the next try waits for ever")
def test_removal_fails_a_task_that_would_be_tried_again(ray, util, make, inside):
    group = make([{"CPU": 1}])

    @ray.remote
    def nap():
        time.sleep(60)

    ref = nap.options(scheduling_strategy=inside(group)).remote()
    time.sleep(0.5)
    util.remove_placement_group(group)
    with pytest.raises(ray.exceptions.TaskPlacementGroupRemoved):
        ray.get(ref, timeout=60)


def test_removal_ends_the_actors_inside(ray, util, make, inside):
    group = make([{"CPU": 1}])
    actor = here(ray).options(scheduling_strategy=inside(group)).remote()
    assert ray.get(actor.group.remote(), timeout=60) == group.id.hex()
    util.remove_placement_group(group)
    with pytest.raises(ray.exceptions.ActorDiedError):
        ray.get(actor.group.remote(), timeout=60)


@differs_on_ray("its calls wait for ever")
def test_removal_ends_actors_that_would_be_restarted(ray, util, make, inside):
    group = make([{"CPU": 1}])
    cls = here(ray, num_cpus=1, max_restarts=-1, max_task_retries=-1)
    actor = cls.options(scheduling_strategy=inside(group)).remote()
    assert ray.get(actor.group.remote(), timeout=60) == group.id.hex()
    util.remove_placement_group(group)
    with pytest.raises(ray.exceptions.ActorDiedError):
        ray.get(actor.group.remote(), timeout=60)


@one_node_for_all
def test_removal_ends_the_hopes_of_an_actor_that_has_not_started(ray, util, make, inside):
    group = make([{"CPU": 1}])
    cls = here(ray, num_cpus=1)
    first = cls.options(scheduling_strategy=inside(group)).remote()
    assert ray.get(first.group.remote(), timeout=60) == group.id.hex()
    second = cls.options(scheduling_strategy=inside(group)).remote()
    ref = second.group.remote()
    assert ray.wait([ref], timeout=0.5)[0] == []
    util.remove_placement_group(group)
    with pytest.raises(ray.exceptions.ActorUnschedulableError):
        ray.get(ref, timeout=60)


@differs_on_ray("they wait for ever")
def test_a_removed_group_takes_nobody(ray, util, make, inside):
    group = make([{"CPU": 99}])
    queued = group_of_caller(ray).options(scheduling_strategy=inside(group)).remote()
    starting = here(ray).options(scheduling_strategy=inside(group)).remote().group.remote()
    util.remove_placement_group(group)
    late = group_of_caller(ray).options(scheduling_strategy=inside(group)).remote()
    later = here(ray).options(scheduling_strategy=inside(group)).remote().group.remote()
    for ref in (queued, late):
        with pytest.raises(ray.exceptions.TaskPlacementGroupRemoved):
            ray.get(ref, timeout=60)
    for ref in (starting, later):
        with pytest.raises(ray.exceptions.ActorPlacementGroupRemoved):
            ray.get(ref, timeout=60)


# --------------------------------------------------------------------------- hopeless


@differs_on_ray("it waits for ever")
def test_waiting_without_end_for_what_is_not_there_is_an_error(ray, make, inside):
    group = make([{"CPU": 99}])
    task = group_of_caller(ray).options(num_cpus=99, scheduling_strategy=inside(group)).remote()
    actor = here(ray).options(scheduling_strategy=inside(group)).remote()
    with pytest.raises(ray.exceptions.TaskUnschedulableError, match="99"):
        ray.get(group.ready())
    with pytest.raises(ray.exceptions.TaskUnschedulableError, match="99"):
        ray.get(task)
    with pytest.raises(ray.exceptions.TaskUnschedulableError, match="99"):
        ray.wait([group.ready()])
    with pytest.raises((ray.exceptions.ActorUnschedulableError, ray.exceptions.TaskUnschedulableError), match="99"):
        ray.get(actor.group.remote())
    assert group.wait(0.1) is False, "with a timeout there is nothing wrong with waiting"
