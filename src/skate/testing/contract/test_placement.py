"""Where calls run: strategies, labels, and what nodes tell of themselves. One node, so that every engine has a say."""

import importlib

import pytest

from skate.testing.contract import differs_on_ray, not_yet, target

INIT = {"resources": {"widget": 2}, "labels": {"zone": "north"}}
UNKNOWN = "ab" * 28


@pytest.fixture
def strategies():
    """The module of the strategies."""
    return importlib.import_module(f"{target.PACKAGE}.util.scheduling_strategies")


def here(ray, **options):
    """A task that tells its node."""

    @ray.remote(**options)
    def f():
        return ray.get_runtime_context().get_node_id()

    return f


def test_nodes_tell_who_and_where_they_are(ray):
    (node,) = ray.nodes()
    assert node["Alive"] is True and node["alive"] is True
    assert node["NodeID"] == ray.get_runtime_context().get_node_id() and len(node["NodeID"]) == 56
    assert node["Resources"]["CPU"] == 2 and node["Resources"]["widget"] == 2
    assert node["Labels"]["zone"] == "north" and node["Labels"]["ray.io/node-id"] == node["NodeID"]
    assert f"node:{node['NodeManagerAddress']}" in node["Resources"]
    assert node["NodeManagerHostname"] and node["NodeName"]
    assert node["DeathReason"] == 0 and node["DeathReasonMessage"] == ""


def test_the_driver_s_node_has_a_resource_of_its_own(ray):
    assert ray.cluster_resources()["node:__internal_head__"] == 1
    assert ray.get(here(ray, resources={"node:__internal_head__": 0.01}).remote()) == ray.nodes()[0]["NodeID"]


@pytest.mark.parametrize("strategy", ["DEFAULT", "SPREAD", None])
def test_strategies_by_name(ray, strategy):
    assert ray.get(here(ray, scheduling_strategy=strategy).remote()) == ray.nodes()[0]["NodeID"]


@pytest.mark.parametrize("soft", [True, False])
def test_affinity_to_the_node_there_is(ray, strategies, soft):
    node = ray.nodes()[0]["NodeID"]
    strategy = strategies.NodeAffinitySchedulingStrategy(node_id=node, soft=soft)
    assert ray.get(here(ray, scheduling_strategy=strategy).remote()) == node

    @ray.remote(scheduling_strategy=strategy)
    class A:
        def where(self):
            return ray.get_runtime_context().get_node_id()

    a = A.remote()
    assert ray.get(a.where.remote()) == node
    assert ray.get(A.options(scheduling_strategy="DEFAULT").remote().where.remote()) == node


def test_a_hard_wish_for_an_unknown_node_fails_a_task(ray, strategies):
    strategy = strategies.NodeAffinitySchedulingStrategy(UNKNOWN, soft=False)
    with pytest.raises(ray.exceptions.TaskUnschedulableError):
        ray.get(here(ray, scheduling_strategy=strategy).remote(), timeout=60)


@not_yet("inline", raises=Exception, reason="a wait with a timeout ends by the timeout")
def test_a_hard_wish_for_an_unknown_node_fails_an_actor(ray, strategies):
    @ray.remote
    class A:
        def f(self):
            return 1

    strategy = strategies.NodeAffinitySchedulingStrategy(UNKNOWN, soft=False)
    a = A.options(scheduling_strategy=strategy).remote()
    with pytest.raises(ray.exceptions.ActorUnschedulableError):
        ray.get(a.f.remote(), timeout=1 if target.ENGINE == "inline" else 60)


def test_a_soft_wish_for_an_unknown_node_runs_elsewhere(ray, strategies):
    strategy = strategies.NodeAffinitySchedulingStrategy(UNKNOWN, soft=True)
    assert ray.get(here(ray, scheduling_strategy=strategy).remote()) == ray.nodes()[0]["NodeID"]


@pytest.mark.parametrize("bad", ["zz", "ab", "ff" * 28])
def test_what_is_no_id_of_a_node_is_refused(ray, strategies, bad):
    with pytest.raises(ValueError, match="Invalid node_id"):
        strategies.NodeAffinitySchedulingStrategy(bad, soft=False)


def test_options_of_affinity_that_contradict_each_other_are_refused(ray, strategies):
    node = ray.nodes()[0]["NodeID"]
    with pytest.raises(ValueError, match="_spill_on_unavailable"):
        strategies.NodeAffinitySchedulingStrategy(node, soft=False, _spill_on_unavailable=True)
    with pytest.raises(ValueError, match="_fail_on_unavailable"):
        strategies.NodeAffinitySchedulingStrategy(node, soft=True, _fail_on_unavailable=True)


@pytest.mark.parametrize("selector", [{"zone": "north"}, {"zone": "in(south,north)"}, {"zone": "!south"}, {"x": "!y"}])
def test_labels_that_fit(ray, selector):
    assert ray.get(here(ray, label_selector=selector).remote(), timeout=60)


@pytest.mark.parametrize("selector", [{"zone": "south"}, {"zone": "!north"}, {"x": "y"}, {"zone": "!in(north)"}])
def test_labels_that_do_not_fit_wait(ray, selector):
    ref = here(ray, label_selector=selector).remote()
    assert ray.wait([ref], timeout=0.3) == ([], [ref])
    ray.cancel(ref)
    with pytest.raises(ray.exceptions.TaskCancelledError):
        ray.get(ref, timeout=60)


@differs_on_ray("it waits for a node that may join")
def test_who_waits_for_labels_that_no_node_has_is_told(ray):
    with pytest.raises(ray.exceptions.TaskUnschedulableError, match="south"):
        ray.get(here(ray, label_selector={"zone": "south"}).remote())


def test_a_fallback_runs_where_the_first_choice_is_not(ray):
    fallback = [{"label_selector": {"zone": "east"}}, {"label_selector": {"zone": "north"}}]
    task = here(ray, label_selector={"zone": "south"}, fallback_strategy=fallback)
    assert ray.get(task.remote(), timeout=60)


def test_operators_of_labels(ray, strategies):
    hard = {
        "zone": strategies.In("north", "south"),
        "ray.io/node-id": strategies.Exists(),
        "x": strategies.DoesNotExist(),
        "y": strategies.NotIn("1"),
    }
    strategy = strategies.NodeLabelSchedulingStrategy(hard, soft={"zone": strategies.In("elsewhere")})
    assert ray.get(here(ray, scheduling_strategy=strategy).remote(), timeout=60)
    for bad in ({}, [1], {"zone": "north"}, {1: strategies.Exists()}):
        with pytest.raises(ValueError):
            strategies.NodeLabelSchedulingStrategy(bad)
    with pytest.raises(ValueError):
        strategies.In()


@pytest.mark.parametrize("strategy", ["EVEN", "spread"])
def test_unknown_strategies_are_refused(ray, strategy):
    with pytest.raises(ValueError):
        here(ray, scheduling_strategy=strategy).remote()
