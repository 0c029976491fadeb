"""Graphs of calls: bind, execute, and walking the nodes."""

import collections

import pytest

from skate.testing.contract import target
from skate.testing.contract.marks import differs_on_ray

dag = pytest.importorskip(f"{target.PACKAGE}.dag")
InputNode, MultiOutputNode = dag.InputNode, dag.MultiOutputNode

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

Pair = collections.namedtuple("Pair", "left right")


class Holder:
    def __init__(self, node):
        self.node = node


@pytest.fixture
def inc(ray):
    @ray.remote
    def inc(x):
        return x + 1

    return inc


@pytest.fixture
def add(ray):
    @ray.remote
    def add(a, b=100):
        return a + b

    return add


@pytest.fixture
def Counter(ray):
    @ray.remote
    class Counter:
        def __init__(self, start=0):
            self.n = start

        def add(self, x):
            self.n += x
            return self.n

    return Counter


def test_a_node_feeds_another(ray, inc, add):
    assert ray.get(add.bind(inc.bind(1), inc.bind(2)).execute()) == 5


def test_nothing_runs_before_execute(ray, tally):
    @ray.remote
    def note():
        tally.add()

    node = note.bind()
    assert tally.count() == 0
    ray.get(node.execute())
    assert tally.count() == 1


def test_a_node_that_two_others_need_runs_once(ray, add, tally):
    @ray.remote
    def once():
        tally.add()
        return 3

    node = once.bind()
    assert ray.get(add.bind(node, node).execute()) == 6
    assert tally.count() == 1


def test_keyword_arguments_are_bound(ray, inc, add):
    assert ray.get(add.bind(a=1, b=inc.bind(1)).execute()) == 3


def test_the_whole_input(ray, inc):
    with InputNode() as inp:
        node = inc.bind(inp)
    assert ray.get(node.execute(4)) == 5
    assert ray.get(node.execute(5)) == 6


def test_parts_of_the_input_by_position_and_name(ray, add):
    with InputNode() as inp:
        node = add.bind(inp[0], inp.x)
    assert ray.get(node.execute(1, x=2)) == 3


def test_parts_of_the_only_argument(ray, add):
    with InputNode() as inp:
        by_position = add.bind(inp[0], inp[1])
    assert ray.get(by_position.execute([1, 2])) == 3
    with InputNode() as inp:
        by_key = add.bind(inp["a"], inp["b"])
    assert ray.get(by_key.execute({"a": 3, "b": 4})) == 7
    with InputNode() as inp:
        by_attribute = add.bind(inp.left, inp.right)
    assert ray.get(by_attribute.execute(Pair(5, 6))) == 11


def test_input_node_takes_no_arguments():
    with pytest.raises(ValueError):
        InputNode(1)


def test_an_input_outside_of_with_is_refused(ray, inc):
    with pytest.raises(AssertionError):
        inc.bind(InputNode()).execute(1)


def test_two_inputs_are_refused(ray, add):
    with InputNode() as one, InputNode() as two:
        node = add.bind(one, two)
    with pytest.raises(AssertionError):
        node.execute(1)


@pytest.mark.parametrize(
    "wrap", [lambda n: [n], lambda n: (n,), lambda n: {"k": n}, Holder], ids=["list", "tuple", "dict", "object"]
)
def test_nodes_inside_of_values(ray, inc, wrap):
    @ray.remote
    def open_it(value):
        if isinstance(value, dict):
            (inner,) = value.values()
        elif isinstance(value, (list, tuple)):
            (inner,) = value
        else:
            inner = value.node
        return ray.get(inner)

    assert ray.get(open_it.bind(wrap(inc.bind(1))).execute()) == 2


def test_several_outputs_come_as_a_list(ray, inc):
    with InputNode() as inp:
        node = MultiOutputNode([inc.bind(inp), inc.bind(inc.bind(inp))])
    refs = node.execute(1)
    assert ray.get(refs) == [2, 3]


def test_multi_output_takes_a_list_only(inc):
    with pytest.raises(ValueError):
        MultiOutputNode(inc.bind(1))


def test_options_are_bound(ray):
    @ray.remote
    def two():
        return 1, 2

    assert ray.get(two.options(num_returns=2).bind().execute()) == [1, 2]


def test_a_class_node_is_an_actor_of_each_execution(ray, Counter):
    node = Counter.bind(10).add.bind(5)
    assert ray.get(node.execute()) == 15
    assert ray.get(node.execute()) == 15


def test_calls_of_a_class_node_run_in_the_order_of_bind(ray, Counter):
    counter = Counter.bind()
    first = counter.add.bind(1)
    second = counter.add.bind(10)
    assert ray.get(MultiOutputNode([second, first]).execute()) == [11, 1]


def test_a_class_node_executes_to_a_handle(ray, Counter):
    handle = Counter.bind(7).execute()
    assert ray.get(handle.add.remote(1)) == 8


def test_a_class_node_refuses_the_input(Counter):
    with InputNode() as inp, pytest.raises(ValueError):
        Counter.bind(inp)


def test_a_class_node_knows_its_methods(Counter):
    with pytest.raises(AttributeError):
        Counter.bind().missing  # noqa: B018


def test_methods_of_living_actors(ray, Counter):
    counter = Counter.remote(100)
    with InputNode() as inp:
        node = counter.add.bind(inp)
    assert ray.get(node.execute(1)) == 101
    assert ray.get(node.execute(1)) == 102


def test_arguments_of_methods_are_checked_when_bound(ray, Counter):
    counter = Counter.remote()
    with pytest.raises(TypeError):
        counter.add.bind(1, 2, 3)


def test_values_of_a_method_with_several_returns(ray):
    @ray.remote
    class Splitter:
        @ray.method(num_returns=2)
        def split(self, pair):
            return pair[0], pair[1]

        def join(self, a, b):
            return f"{a}-{b}"

    splitter = Splitter.remote()
    with InputNode() as inp:
        left, right = splitter.split.bind(inp)
        node = splitter.join.bind(right, left)
    assert ray.get(node.execute((1, 2))) == "2-1"


def test_an_error_in_a_node_reaches_the_end(ray, inc):
    @ray.remote
    def bad(x):
        raise KeyError(x)

    with InputNode() as inp:
        node = inc.bind(bad.bind(inp))
    with pytest.raises(KeyError):
        ray.get(node.execute("k"))


def test_a_bound_node_is_not_bound_again(inc):
    with pytest.raises(AttributeError):
        inc.bind(1).bind(2)


def test_a_node_has_no_remote(inc):
    with pytest.raises(AttributeError, match="execute"):
        inc.bind(1).remote()


def test_what_a_node_holds(inc, add):
    inner = inc.bind(1)
    node = add.options(num_cpus=0).bind(inner, b=[inner])
    assert list(node.get_args()) == [inner]
    assert node.get_kwargs() == {"b": [inner]}
    assert node.get_options()["num_cpus"] == 0
    assert node._get_toplevel_child_nodes() == [inner]
    assert node._get_all_child_nodes() == [inner]


def test_apply_recursive_goes_bottom_up_and_once(inc, add):
    shared = inc.bind(1)
    node = add.bind(shared, [shared])
    seen = []

    def name(node):
        seen.append(len(list(node.get_args())))
        return "done"

    assert node.apply_recursive(name) == "done"
    assert seen == [1, 2]


def test_copies_keep_their_uuid_and_hold_what_the_function_gave(inc, add):
    node = add.bind(inc.bind(1), 5)
    copies = {}

    def keep(copy):
        copies[copy.get_stable_uuid()] = copy
        return "x"

    node.apply_recursive(keep)
    assert list(copies[node.get_stable_uuid()].get_args()) == ["x", 5]
    assert isinstance(node.get_args()[0], dag.DAGNode)


@differs_on_ray("a node for which the predicate is false raises KeyError")
def test_apply_functional_replaces_without_copying(inc, add):
    one, two = inc.bind(1), add.bind(1, 2)
    replaced = one.apply_functional([one, {"k": two}], lambda n: n is two, lambda n: "two")
    assert replaced == [one, {"k": "two"}]


def test_traversal_reaches_all_connected_nodes(inc, add):
    with InputNode() as inp:
        one, two = inc.bind(inp), inc.bind(inp)
        node = add.bind(one, two)
    seen = set()
    one.traverse_and_apply(lambda n: seen.add(n.get_stable_uuid()))
    assert seen == {n.get_stable_uuid() for n in (inp, one, two, node)}


def test_what_nodes_gave_can_be_kept(ray, inc):
    inner = inc.bind(1)
    node = inc.bind(inner)
    node.execute(_ray_cache_refs=True)
    assert ray.get(node.cache_from_last_execute[inner.get_stable_uuid()]) == 2
    node.clear_cache()
    assert node.cache_from_last_execute == {}


def test_a_long_chain(ray, inc):
    node = inc.bind(0)
    for _ in range(60):
        node = inc.bind(node)
    assert ray.get(node.execute()) == 61
