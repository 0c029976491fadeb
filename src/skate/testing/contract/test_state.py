"""The state API and the timeline: what is listed, in which words, and what filters do."""

import importlib
import json

import pytest

from skate.testing.contract import target
from skate.testing.contract.marks import needs_background, needs_processes
from skate.testing.contract.tools import eventually, raised

if target.ENGINE == "ray":
    pytest.importorskip("aiohttp_cors", reason="the state API of Ray needs ray[default]")

INIT = {"include_dashboard": True, "num_cpus": 2}


@pytest.fixture
def state(request, monkeypatch):
    """The module `util.state` of the package, with a session that answers it."""
    ray = request.getfixturevalue("ray")
    module = importlib.import_module(f"{target.PACKAGE}.util.state")
    if target.ENGINE == "ray":
        monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
        assert eventually(lambda: raised(module.list_nodes) is None, 40)
    return module


def named(ray, name, **options):
    """A task with this name."""

    @ray.remote
    def work():
        return 1

    return work.options(name=name, **options)


def of_name(state, name, **arguments):
    return state.list_tasks(filters=[("name", "=", name)], **arguments)


def test_finished_task_is_listed_with_where_it_ran(ray, state, fresh_name):
    ref = named(ray, fresh_name).remote()
    ray.get(ref)
    assert eventually(lambda: [row.state for row in of_name(state, fresh_name)] == ["FINISHED"])
    (row,) = of_name(state, fresh_name)
    assert row.task_id == ref.task_id().hex()
    assert (row.type, row.attempt_number, row.func_or_class_name) == ("NORMAL_TASK", 0, "work")
    assert row.worker_id and row.node_id == ray.nodes()[0]["NodeID"]
    assert row.error_type is None and row.actor_id is None


def test_details_are_none_unless_asked_for(ray, state, fresh_name):
    ray.get(named(ray, fresh_name, num_cpus=2).remote())
    assert eventually(lambda: [row.state for row in of_name(state, fresh_name)] == ["FINISHED"])
    (row,) = of_name(state, fresh_name)
    assert row.start_time_ms is None and row.required_resources is None and row.events is None
    assert eventually(lambda: of_name(state, fresh_name, detail=True)[0].start_time_ms)
    (row,) = of_name(state, fresh_name, detail=True)
    assert row.required_resources == {"CPU": 2.0} and row.language == "PYTHON"
    assert row.creation_time_ms <= row.start_time_ms <= row.end_time_ms
    assert [event["state"] for event in row.events][-1] == "FINISHED"


def test_failed_task_tells_its_error(ray, state, fresh_name):
    @ray.remote
    def fails():
        raise ValueError("as it must be")

    assert isinstance(raised(lambda: ray.get(fails.options(name=fresh_name).remote())), ValueError)
    assert eventually(lambda: [row.state for row in of_name(state, fresh_name)] == ["FAILED"])
    (row,) = of_name(state, fresh_name, detail=True)
    assert row.error_type == "TASK_EXECUTION_EXCEPTION"
    assert "ValueError" in row.error_message and "as it must be" in row.error_message


def test_each_attempt_is_a_row(ray, state, fresh_name, tally):
    @ray.remote(max_retries=2, retry_exceptions=True)
    def fails_once():
        tally.add()
        if tally.count() < 2:
            raise ValueError("again")
        return tally.count()

    ref = fails_once.options(name=fresh_name).remote()
    assert ray.get(ref) == 2

    def attempts():
        return sorted((row.attempt_number, row.state) for row in of_name(state, fresh_name))

    assert eventually(lambda: attempts() == [(0, "FAILED"), (1, "FINISHED")])
    assert len(state.get_task(ref)) == 2


def test_calls_of_an_actor_and_its_constructor_are_listed(ray, state, fresh_name):
    @ray.remote
    class Counter:
        def up(self):
            return 1

    actor = Counter.options(name=fresh_name).remote()
    ray.get(actor.up.remote())
    mine = [("actor_id", "=", actor._actor_id.hex())]
    assert eventually(lambda: len(state.list_tasks(filters=mine)) == 2)
    kinds = {row.type: row.name for row in state.list_tasks(filters=mine)}
    assert kinds["ACTOR_CREATION_TASK"] == f"{fresh_name}:Counter.__init__"
    assert kinds["ACTOR_TASK"] == "Counter.up"


def test_child_names_its_parent(ray, state, fresh_name):
    @ray.remote
    def child():
        return 1

    @ray.remote
    def parent(name):
        return ray.get(child.options(name=name).remote())

    ref = parent.remote(fresh_name)
    assert ray.get(ref) == 1
    assert eventually(lambda: of_name(state, fresh_name))
    assert of_name(state, fresh_name)[0].parent_task_id == ref.task_id().hex()


@needs_background
def test_running_and_waiting_tasks_are_told_apart(ray, state, fresh_name):
    @ray.remote(num_cpus=0)
    class Gate:
        def __init__(self):
            self.open = False

        async def wait(self):
            import asyncio

            while not self.open:
                await asyncio.sleep(0.02)

        async def release(self):
            self.open = True

    gate = Gate.remote()

    @ray.remote
    def runs(gate):
        ray.get(gate.wait.remote())

    first = runs.options(name=fresh_name + "a").remote(gate)
    second = named(ray, fresh_name + "b", num_cpus=50).remote()
    # Ray leaves it at RUNNING, though it has a word for this.
    running = ("RUNNING", "RUNNING_IN_RAY_GET")
    assert eventually(lambda: [row.state in running for row in of_name(state, fresh_name + "a")] == [True])
    assert [row.state for row in of_name(state, fresh_name + "b")] == ["PENDING_NODE_ASSIGNMENT"]
    ray.cancel(second)
    ray.get(gate.release.remote())
    ray.get(first)


def test_task_that_asks_for_no_events_is_not_listed(ray, state, fresh_name):
    ray.get(named(ray, fresh_name, enable_task_events=False).remote())
    ray.get(named(ray, fresh_name + "b").remote())
    assert eventually(lambda: of_name(state, fresh_name + "b"))
    assert of_name(state, fresh_name) == []


def test_filters_compare_without_case_and_all_must_hold(ray, state, fresh_name):
    ray.get(named(ray, fresh_name).remote())
    assert eventually(lambda: of_name(state, fresh_name.upper()))
    both = [("name", "=", fresh_name), ("state", "!=", "FINISHED")]
    assert eventually(lambda: state.list_tasks(filters=both) == [])
    assert all(row.name != fresh_name for row in state.list_tasks(filters=[("name", "!=", fresh_name)]))


def test_filters_take_numbers_as_text(ray, state):
    driver = next(row for row in state.list_workers() if row.worker_type == "DRIVER")
    for value in (driver.pid, str(driver.pid)):
        rows = state.list_workers(filters=[("pid", "=", value)], raise_on_missing_output=False)
        assert [row.worker_id for row in rows] == [driver.worker_id]


@pytest.mark.parametrize(
    "arguments",
    [
        {"filters": [("no_such_column", "=", "x")]},
        {"filters": [("events", "=", "x")], "detail": True},
        {"filters": [("worker_pid", "=", "no number")]},
        {"limit": 20_000},
        {"limit": -1},
    ],
)
def test_impossible_questions_are_refused(ray, state, fresh_name, arguments):
    exception = importlib.import_module(f"{target.PACKAGE}.util.state.exception").RayStateApiException
    ray.get(named(ray, fresh_name).remote())
    assert eventually(lambda: of_name(state, fresh_name))
    assert isinstance(raised(lambda: state.list_tasks(**arguments)), exception)


@pytest.mark.parametrize("filters", [[("name", "<", "x")], [("name", "=")]])
def test_filters_of_another_form_are_refused(ray, state, filters):
    assert isinstance(raised(lambda: state.list_tasks(filters=filters)), ValueError)


def test_filters_that_contradict_each_other_give_nothing_and_a_warning(ray, state):
    with pytest.warns(UserWarning, match="name"):
        assert state.list_tasks(filters=[("name", "=", "a"), ("name", "=", "b")]) == []


def test_limit_bounds_the_rows(ray, state, fresh_name):
    ray.get([named(ray, fresh_name).remote() for _ in range(3)])
    assert eventually(lambda: len(of_name(state, fresh_name)) == 3)
    assert len(of_name(state, fresh_name, limit=2)) == 2
    assert of_name(state, fresh_name, limit=0) == []


def test_actor_is_listed_in_life_and_death(ray, state, fresh_name):
    @ray.remote
    class Mortal:
        def f(self):
            return 1

    actor = Mortal.options(name=fresh_name).remote()
    ray.get(actor.f.remote())
    ident = actor._actor_id.hex()
    row = state.get_actor(ident)
    assert row.class_name.endswith("Mortal")
    assert (row.state, row.name, row.is_detached) == ("ALIVE", fresh_name, False)
    assert row.ray_namespace == ray.get_runtime_context().namespace and row.num_restarts == 0
    ray.kill(actor)
    assert eventually(lambda: state.get_actor(ident).state == "DEAD")
    context = state.get_actor(ident).death_cause["actor_died_error_context"]
    assert "kill" in context["error_message"]


def test_actors_are_counted_by_class(ray, state):
    @ray.remote
    class Counted:
        def f(self):
            return 1

    actors = [Counted.remote() for _ in range(2)]
    ray.get([actor.f.remote() for actor in actors])
    summary = state.summarize_actors()["cluster"]["summary"]
    (key,) = [key for key in summary if key.endswith("Counted")]
    assert summary[key]["state_counts"]["ALIVE"] == 2


def test_tasks_are_counted_by_name(ray, state, fresh_name):
    ray.get([named(ray, fresh_name).remote() for _ in range(3)])

    def counts():
        return state.summarize_tasks()["cluster"]["summary"].get(fresh_name, {}).get("state_counts")

    assert eventually(lambda: counts() == {"FINISHED": 3})


def test_object_is_listed_with_its_size(ray, state):
    ref = ray.put(b"x" * 2_000_000)
    assert eventually(lambda: state.get_objects(ref.hex()))
    (row,) = state.get_objects(ref.hex())
    assert 2_000_000 <= row.object_size < 2_001_000
    assert (row.type, row.reference_type, row.call_site) == ("DRIVER", "LOCAL_REFERENCE", "disabled")


@needs_background
def test_argument_of_a_waiting_task_is_in_use(ray, state):
    @ray.remote(num_cpus=50)
    def never(value):
        return value

    ref = ray.put(b"y" * 1_000_000)
    task = never.remote(ref)
    assert eventually(lambda: [row.reference_type for row in state.get_objects(ref.hex())] == ["USED_BY_PENDING_TASK"])
    ray.cancel(task)


def test_node_is_listed_with_its_resources(ray, state):
    (row,) = state.list_nodes(detail=True)
    assert row.node_id == ray.nodes()[0]["NodeID"]
    assert row.state == "ALIVE" and row.is_head_node and row.resources_total["CPU"] == 2.0
    assert state.get_node(row.node_id).node_id == row.node_id


@needs_processes
def test_worker_is_listed_by_its_pid(ray, state):
    import os

    @ray.remote
    def pid():
        return os.getpid()

    found = ray.get(pid.remote())
    rows = state.list_workers(detail=True, raise_on_missing_output=False)
    row = next(row for row in rows if row.pid == found)
    assert row.is_alive and row.worker_type == "WORKER" and row.exit_type is None and row.start_time_ms > 0


def test_placement_group_is_listed(ray, state, fresh_name):
    util = importlib.import_module(f"{target.PACKAGE}.util")
    group = util.placement_group([{"CPU": 1}], strategy="PACK", name=fresh_name)
    ray.get(group.ready())
    mine = [("name", "=", fresh_name)]
    assert eventually(lambda: [row.state for row in state.list_placement_groups(filters=mine)] == ["CREATED"])
    (row,) = state.list_placement_groups(filters=mine, detail=True)
    assert row.placement_group_id == group.id.hex() and not row.is_detached
    assert [bundle["unit_resources"] for bundle in row.bundles] == [{"CPU": 1.0}]
    util.remove_placement_group(group)
    assert eventually(lambda: [row.state for row in state.list_placement_groups(filters=mine)] == ["REMOVED"])


def test_driver_is_a_job(ray, state):
    row = next(row for row in state.list_jobs() if row.status == "RUNNING")
    assert row.job_id == ray.get_runtime_context().get_job_id()
    assert row.type == "DRIVER" and row.driver_info.pid.isdigit()


@pytest.mark.parametrize("kind", ["task", "worker", "node", "placement_group", "job"])
def test_unknown_id_is_none(ray, state, kind):
    length = {"task": 48, "worker": 56, "node": 56, "placement_group": 36, "job": 8}[kind]
    assert getattr(state, f"get_{kind}")("0" * length) is None


def test_rows_are_dicts_too(ray, state):
    row = state.list_nodes()[0]
    assert row["node_id"] == row.node_id == row.asdict()["node_id"]
    assert row.get("nothing", 5) == 5
    assert repr(row).startswith("NodeState(node_id=")


def test_tasks_ask_as_well(ray, state, fresh_name):
    if target.ENGINE == "ray":
        pytest.skip("a worker of Ray needs the address")
    package = target.PACKAGE

    @ray.remote
    def look():
        import importlib

        return [row.name for row in importlib.import_module(f"{package}.util.state").list_actors()]

    @ray.remote
    class Seen:
        def f(self):
            return 1

    actor = Seen.options(name=fresh_name).remote()
    ray.get(actor.f.remote())
    assert fresh_name in ray.get(look.remote())


def test_timeline_is_of_complete_events(ray, state, fresh_name, tmp_path):
    ray.get(named(ray, fresh_name).remote())
    path = tmp_path / "timeline.json"

    def spans():
        return [event for event in ray.timeline() if event["ph"] == "X"]

    assert eventually(lambda: len(spans()) > 0)
    for event in spans():
        assert {"name", "cat", "pid", "tid", "ts", "dur", "args"} <= event.keys() and event["dur"] >= 0
    assert ray.timeline(filename=str(path)) is None
    assert isinstance(json.loads(path.read_text()), list)
