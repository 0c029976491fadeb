"""Small helpers: results as they come, metrics, log_once, progress bars."""

import importlib
import io
import pickle
import time
import warnings

import pytest

from skate.testing.contract import target
from skate.testing.contract.marks import differs_on_ray, needs_background
from skate.testing.contract.tools import eventually

INIT = {"num_cpus": 4}


def module(name):
    return importlib.import_module(f"{target.PACKAGE}.{name}")


@pytest.fixture
def nap(ray):
    @ray.remote
    def nap(seconds):
        time.sleep(seconds)
        return seconds

    return nap


# ------------------------------------------------------------------------ as they come


@needs_background
def test_as_completed_gives_the_fast_ones_first(ray, tally):
    @ray.remote
    def after(count):
        assert eventually(lambda: tally.count() >= count)
        return count

    given = []
    for value in ray.util.as_completed([after.remote(count) for count in (2, 0, 1)], chunk_size=1):
        given.append(value)
        tally.add()
    assert given == [0, 1, 2]


def test_as_completed_can_give_references(ray, nap):
    refs = [nap.remote(0) for _ in range(3)]
    given = list(ray.util.as_completed(refs, yield_obj_refs=True))
    assert set(given) == set(refs)


def test_as_completed_checks_its_arguments(ray):
    with pytest.raises(ValueError):
        list(ray.util.as_completed([ray.put(1)], chunk_size=0))
    with pytest.raises(ValueError):
        list(ray.util.as_completed([ray.put(1)], num_returns=1))


def test_as_completed_of_nothing(ray):
    assert list(ray.util.as_completed([])) == []


def test_map_unordered_covers_all_items(ray):
    @ray.remote
    def double(x):
        return 2 * x

    given = list(ray.util.map_unordered(double, range(50), backpressure_size=5, chunk_size=2))
    assert sorted(given) == list(range(0, 100, 2))


def test_map_unordered_reads_only_a_little_ahead(ray, nap):
    read = []

    def items():
        for number in range(1000):
            read.append(number)
            yield 0

    results = ray.util.map_unordered(nap, items(), backpressure_size=4, chunk_size=1)
    next(results)
    assert len(read) <= 10


def test_map_unordered_checks_its_arguments(ray, nap):
    with pytest.raises(ValueError):
        list(ray.util.map_unordered(nap, [0], backpressure_size=0))
    assert list(ray.util.map_unordered(nap, [0, 0, 0], backpressure_size=1, chunk_size=5)) == [0, 0, 0]


def test_map_unordered_raises_what_a_task_raised(ray):
    @ray.remote
    def bad(x):
        raise KeyError(x)

    with pytest.raises(KeyError):
        list(ray.util.map_unordered(bad, [1]))


# ---------------------------------------------------------------------------- metrics


def test_tags_are_needed_and_checked(ray):
    counter = module("util.metrics").Counter("contract_tags", tag_keys=("a", "b"))
    with pytest.raises(ValueError):
        counter.inc(1, tags={"a": "x"})
    with pytest.raises(TypeError):
        counter.inc(1, tags={"a": "x", "b": 2})
    with pytest.raises(ValueError):
        counter.set_default_tags({"c": "x"})
    assert counter.set_default_tags({"b": "y"}) is counter
    counter.inc(1, tags={"a": "x"})


@differs_on_ray("unknown tags are accepted")
def test_unknown_tags_are_refused(ray):
    counter = module("util.metrics").Counter("contract_unknown", tag_keys=("a",))
    with pytest.raises(ValueError):
        counter.inc(1, tags={"a": "x", "z": "y"})


def test_names_and_keys_are_checked(ray):
    metrics = module("util.metrics")
    with pytest.raises(ValueError):
        metrics.Gauge("")
    with pytest.raises(TypeError):
        metrics.Gauge("contract_keys", tag_keys=["a"])
    with pytest.raises(TypeError):
        metrics.Gauge("contract_keys", tag_keys=(1,))
    with pytest.warns(UserWarning):
        metrics.Gauge("not-a-name").set(1)


def test_values_are_checked(ray):
    metrics = module("util.metrics")
    counter = metrics.Counter("contract_values")
    for bad in (0, -1):
        with pytest.raises(ValueError):
            counter.inc(bad)
    with pytest.raises(TypeError):
        counter.inc("1")
    gauge = metrics.Gauge("contract_values_gauge")
    gauge.set(None)
    with pytest.raises(TypeError):
        gauge.set("high")
    for bounds in (None, [], [0], [-1, 2]):
        with pytest.raises(ValueError):
            metrics.Histogram("contract_values_histogram", boundaries=bounds)


def test_what_a_metric_says_of_itself(ray):
    metrics = module("util.metrics")
    histogram = metrics.Histogram("contract_info", "how long", boundaries=[1, 2], tag_keys=("a",))
    assert histogram.info == {
        "name": "contract_info",
        "description": "how long",
        "tag_keys": ("a",),
        "default_tags": {},
        "boundaries": [1, 2],
    }


def test_metrics_travel(ray):
    counter = module("util.metrics").Counter("contract_travel", "d", ("a",))
    assert pickle.loads(pickle.dumps(counter)).info["name"] == "contract_travel"

    @ray.remote
    def use(counter):
        counter.inc(2, tags={"a": "x"})
        return counter.info["tag_keys"]

    assert tuple(ray.get(use.remote(counter))) == ("a",)


# ----------------------------------------------------------------------- other helpers


def test_log_once(ray):
    debug = module("util.debug")
    assert debug.log_once("contract-key")
    assert not debug.log_once("contract-key")
    debug.reset_log_once("contract-key")
    assert debug.log_once("contract-key")


def test_a_progress_bar_counts(ray):
    tqdm_ray = module("experimental.tqdm_ray")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bar = tqdm_ray.tqdm(range(5), desc="five", flush_interval_s=0)
        assert bar.total == 5
        assert list(bar) == [0, 1, 2, 3, 4]
        assert bar.n == 5
        bar.set_description("done")
        bar.close()


def test_a_progress_bar_without_items(ray):
    tqdm_ray = module("experimental.tqdm_ray")
    bar = tqdm_ray.tqdm(total=10)
    bar.update(3)
    assert bar.n == 3
    with pytest.raises(ValueError):
        list(bar)
    bar.close()


def test_a_progress_bar_in_a_task(ray):
    tqdm_ray = module("experimental.tqdm_ray")

    @ray.remote
    def work():
        return sum(tqdm_ray.tqdm(range(4), desc="work"))

    assert ray.get(work.remote()) == 6


def test_safe_print(ray):
    out = io.StringIO()
    module("experimental.tqdm_ray").safe_print("hello", file=out)
    assert out.getvalue() == "hello\n"
