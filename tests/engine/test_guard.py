"""A worker that sends nonsense is ended, with one warning and its calls retried or failed; nobody else is touched."""

from __future__ import annotations

import hashlib
import signal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import CPU, ERROR, NONE, Session

from skate.core.spec import ActorInfo, ActorOptions, CallOptions, TaskOptions
from skate.engines.local.boot import PAGE
from skate.engines.local.guard import MOST_RETURNS
from skate.engines.local.messages import (
    Answer,
    Ask,
    Back,
    Call,
    CloseStream,
    Done,
    DoneMany,
    Export,
    Failed,
    Get,
    Hello,
    Hold,
    Item,
    Leaving,
    Next,
    Put,
    Release,
    SpawnRequest,
    Stored,
    Submit,
    TaskSpec,
    Unused,
    Values,
    encode_any,
    encoder,
)
from skate.engines.local.rows import FAILED, READY, Worker
from skate.exceptions import ObjectLostError, WorkerCrashedError

HUGE = 2**64 - 1


class Stage:
    """Two workers at work, a stream, an object of the driver's in the arena, and room granted to each worker."""

    def __init__(self) -> None:
        self.session = session = Session(cpus=4)
        self.object = session.put_large(2 * PAGE)
        self.place = session.row(self.object).value
        self.task = session.task(max_retries=1)
        self.others = session.task()
        self.pair = session.task(returns=2)
        self.stream = session.task(returns=-1)
        session.arrive()
        at_work = session.at_work()
        self.bad, self.good = at_work[self.task], at_work[self.others]
        self.room(self.bad)
        self.room(self.good)
        self.asked = len(self.bad.link.sent)

    def room(self, worker: Worker) -> None:
        self.session.tell(worker, Ask(1, "allocate", encode_any([self.session.new(worker), PAGE])))

    def own(self, count: int = 1) -> int:
        return self.session.new(self.bad, count)

    def spec(self, **changes: object) -> TaskSpec:
        fields = {"task": self.own(), "function": b"g", "args": b"", **changes}
        return TaskSpec(**fields)  # type: ignore[arg-type]

    def submit(self, options: TaskOptions | None = None, **changes: object) -> Submit:
        return Submit(self.spec(**changes), options or TaskOptions())

    def call(self, **changes: object) -> Call:
        return Call(self.spec(**{"function": b"", "actor": 5, "method": "m", **changes}), CallOptions())

    def spawn(self, options: ActorOptions | None = None, actor: int = 0, **changes: object) -> Ask:
        key = self.own()
        spec = TaskSpec(**{"task": key, "function": b"Class", "args": b"", "actor": key, **changes})  # type: ignore[arg-type]
        info = ActorInfo(actor or key, options or ActorOptions(), ())
        return Ask(2, "spawn", encoder.encode(SpawnRequest(spec, info)))

    def mine(self, key: int = 0, size: int = PAGE) -> Stored:
        """The block that the bad worker was granted."""
        return Stored(key, self.bad.granted[0][0], size)

    def finish(self) -> None:
        """Everybody else ends their work: nothing is left but what the driver holds."""
        session = self.session
        session.die(self.bad)
        for _ in range(3):
            session.arrive()
            for task in list(session.at_work()):
                spec = session.row(task).spec
                assert spec is not None
                if spec.returns == 1:
                    session.done(task)
                else:
                    session.done_many(task, [NONE] * max(1, spec.returns))
        assert session.is_ready(self.others) and session.is_ready(self.pair + 1) and session.is_ready(self.object)
        session.release(self.task, self.others, self.pair, self.pair + 1, self.stream, self.object)
        session.hub.abandon_stream(self.stream)
        for worker in list(session.hub.workers.values()):
            session.die(worker)
        session.check_empty()
        assert session.arena.used == 0
        assert session.hub.scheduler.free == session.hub.scheduler.total


@pytest.fixture
def stage():
    made = Stage()
    yield made
    made.session.close()


def gpus(units: int) -> TaskOptions:
    return TaskOptions(resources=(("GPU", units),))


NONSENSE = {
    "hello twice": lambda s: [Hello(1)],
    "a result of nobody's call": lambda s: [Done(12345, NONE)],
    "a result of another worker's call": lambda s: [Done(s.others, NONE)],
    "one result twice": lambda s: [Done(s.task, NONE), Done(s.task, NONE)],
    "one result of two": lambda s: [DoneMany(s.task, [NONE, NONE], [(), ()])],
    "results without their references": lambda s: [DoneMany(s.task, [], [()])],
    "a failure of another worker's call": lambda s: [Failed(s.others, ERROR)],
    "an item of another worker's stream": lambda s: [Item(s.stream, NONE)],
    "an item of what is no stream": lambda s: [Item(s.task, NONE)],
    "a result in somebody else's memory": lambda s: [Done(s.task, Stored(s.task, s.place.offset, s.place.size))],
    "a result outside of the arena": lambda s: [Done(s.task, Stored(s.task, 1 << 40, PAGE))],
    "a result in another worker's room": lambda s: [Done(s.task, Stored(s.task, s.good.granted[0][0], PAGE))],
    "a result larger than its room": lambda s: [Done(s.task, s.mine(s.task, 5 * PAGE))],
    "a result of no size": lambda s: [Done(s.task, s.mine(s.task, 0))],
    "a result laid down as another object": lambda s: [Done(s.task, s.mine(s.object))],
    "a value put in somebody else's memory": lambda s: [
        Put(k := s.own(), Stored(k, s.place.offset, s.place.size)),
    ],
    "one block put twice": lambda s: [Put(k := s.own(), s.mine(k)), Put(j := s.own(), s.mine(j))],
    "a value put over the driver's": lambda s: [Put(s.object, NONE)],
    "a value put by another's number": lambda s: [Put(s.session.new(s.good), NONE)],
    "a value put twice": lambda s: [Put(k := s.own(), NONE), Put(k, NONE)],
    "a value put under a huge key": lambda s: [Put(HUGE, NONE)],
    "a task by the driver's number": lambda s: [s.submit(task=s.session.ids.take())],
    "a task over another object": lambda s: [s.submit(task=s.others)],
    "a task of an unknown function": lambda s: [s.submit(function=b"nobody's")],
    "a task that calls an actor": lambda s: [s.submit(actor=7)],
    "a task that is a method": lambda s: [s.submit(method="m")],
    "a task with too many returns": lambda s: [s.submit(returns=MOST_RETURNS + 1)],
    "a task with -3 returns": lambda s: [s.submit(returns=-3)],
    "a task whose returns run into the next client's": lambda s: [
        s.submit(task=((s.bad.client + 1) << 40) - 1, returns=3),
    ],
    "a task whose returns overlap": lambda s: [Put(k := s.own() + 5, NONE), s.submit(task=k - 2, returns=4)],
    "arguments in somebody else's memory": lambda s: [
        s.submit(args=Stored(s.own(), s.place.offset, s.place.size)),
    ],
    "arguments under the key of the result": lambda s: [s.submit(task=(k := s.own()), args=s.mine(k))],
    "arguments under the driver's key": lambda s: [s.submit(args=s.mine(s.object))],
    "an actor as a value": lambda s: [s.submit(deps=(s.session.actor(),))],
    "no units of a resource": lambda s: [s.submit(TaskOptions(resources=(("CPU", 0),)))],
    "negative resources": lambda s: [s.submit(TaskOptions(resources=(("CPU", -CPU),)))],
    "a resource twice": lambda s: [s.submit(TaskOptions(resources=(("CPU", 1), ("CPU", 1))))],
    "one and a half GPUs": lambda s: [s.submit(gpus(15_000))],
    "a stream running ahead for ever": lambda s: [s.submit(TaskOptions(backpressure=HUGE), returns=-1)],
    "a call without a method": lambda s: [s.call(method="")],
    "a call over another object": lambda s: [s.call(task=s.others)],
    "a call with arguments nowhere": lambda s: [s.call(args=Stored(s.own(), 0, PAGE))],
    "an actor under another's number": lambda s: [s.spawn(actor=77)],
    "an actor with a method": lambda s: [s.spawn(method="m")],
    "an actor of an unknown class": lambda s: [s.spawn(function=b"?")],
    "an actor on negative resources": lambda s: [s.spawn(ActorOptions(resources=(("CPU", -1),)))],
    "a definition under a false hash": lambda s: [Export(b"\0" * 16, b"evil", "evil")],
    "room of no size": lambda s: [Ask(2, "allocate", encode_any([s.own(), 0]))],
    "room of negative size": lambda s: [Ask(2, "allocate", encode_any([s.own(), -PAGE]))],
    "room of half a byte": lambda s: [Ask(2, "allocate", encode_any([s.own(), 0.5]))],
    "room for the driver's object": lambda s: [Ask(2, "allocate", encode_any([s.object, PAGE]))],
    "room for another worker's result": lambda s: [Ask(2, "allocate", encode_any([s.pair, PAGE]))],
    "a value in a file that is none": lambda s: [Done(s.task, Stored(s.task, -5, PAGE))],
    "somebody else's file": lambda s: [Put(k := s.own(), Stored(k, ~s.place.offset, s.place.size))],
    "somebody else's call given back": lambda s: [Back([s.others])],
    "a block given back twice": lambda s: [Unused([s.mine().offset, s.mine().offset])],
    "somebody else's block given back": lambda s: [Unused([s.place.offset])],
    "an item named by another's number": lambda s: [Next(s.stream, s.object)],
    "more wanted than named": lambda s: [Get(2, [s.object], 2, None, True, False)],
    "less than nothing wanted": lambda s: [Get(2, [s.object], -1, None, True, False)],
    "an answer within nan seconds": lambda s: [Get(2, [s.others], 1, float("nan"), True, False)],
    "a result with refs, then noise": lambda s: [Done(s.task, NONE, (s.object,)), Done(1, NONE)],
}  # fmt: skip


@pytest.mark.parametrize("what", NONSENSE)
def test_nonsense_ends_its_worker_and_touches_nobody_else(stage, what):
    session = stage.session
    stage.session.tell = None  # nothing is granted on the way
    messages = NONSENSE[what](stage)
    before = len(session.warnings)
    session.hear(stage.bad, encoder.encode(messages))
    assert stage.bad.outlaw
    assert [text for text in session.warnings[before:] if "nonsense" in text] == [
        f"worker {stage.bad.pid} sent nonsense, and is ended: it {stage.bad.outlaw}"
    ]
    assert (stage.bad, signal.SIGKILL) in session.signals
    session.hear(stage.bad, encoder.encode([Hello(3), Done(stage.others, NONE)]))
    assert len(session.warnings) == before + 1, "one warning is enough"
    assert session.row(stage.object).value == stage.place and session.row(stage.others).state == 0
    del session.tell
    for actor in list(session.hub.actors):
        session.release(actor)
    stage.finish()


def test_the_task_of_an_ended_worker_is_tried_again_and_then_fails_with_the_reason(stage):
    session = stage.session
    for _ in range(2):
        worker = session.up_with(stage.task)
        session.hear(worker, encoder.encode([Done(1, NONE)]))
        assert session.at_work()[stage.task] is worker, "it is retried when the process is gone, not before"
        session.die(worker)
    error = session.error(stage.task)
    assert isinstance(error, WorkerCrashedError)
    assert "after 2 attempts" in str(error) and "reported on the call 1, which it was not running" in str(error)


def test_calls_that_an_ended_worker_had_not_begun_go_elsewhere(session):
    for _ in range(20):  # short calls queue in a worker
        task = session.task(max_retries=0)
        session.arrive()
        session.done(task, took=10)
    tasks = [session.task(max_retries=0) for _ in range(40)]
    worker = session.at_work()[tasks[0]]
    assert len(worker.running) > 1
    first, second, *_ = worker.running
    session.hear(worker, encoder.encode([Done(1, NONE)]))
    session.die(worker)
    assert isinstance(session.error(first), WorkerCrashedError)
    assert session.row(second).state == 0 and session.row(second).attempt == 0


def test_an_ended_worker_gets_no_more_tasks(stage):
    session = stage.session
    session.hear(stage.bad, encoder.encode([Done(stage.task, NONE), Done(1, NONE)]))
    later = [session.task() for _ in range(10)]
    session.arrive()
    assert not stage.bad.running and later[0] in session.at_work()


def test_an_actor_whose_worker_sends_nonsense_is_restarted_as_its_options_say(session):
    actor = session.actor(max_restarts=1)
    worker = session.up_with(actor)
    session.done(actor)
    session.hear(worker, encoder.encode([Unused([4096])]))
    session.die(worker)
    again = session.up_with(actor)
    session.done(actor)
    call = session.call(actor)
    session.hear(again, encoder.encode([Unused([4096])]))
    session.die(again)
    assert "gave back a block at 4096 that it was not granted" in str(session.error(call))


@pytest.mark.parametrize("first", [Put(1, NONE), Done(1, NONE), Leaving("", True), Hold([1])])
def test_whoever_does_not_say_hello_first_is_ended(session, first):
    task = session.task()
    worker = session.newcomers[0]
    session.hear(worker, encoder.encode([first, Hello(5)]))
    assert worker.outlaw and not worker.up
    session.die(worker)
    session.newcomers.remove(worker)
    session.up_with(task)
    session.done(task)
    session.release(task)
    session.check_empty()


# ------------------------------------------------- out of date, which is no nonsense


def test_references_to_what_is_gone_are_kept_by_nobody(stage):
    session = stage.session
    coming = session.ids.following + 1
    key = stage.own()
    session.hear(stage.bad, encoder.encode([Hold([coming]), Release([coming]), Put(key, NONE, (coming, stage.object))]))
    assert not stage.bad.outlaw and session.row(key).refs == (stage.object,)
    session.put()
    assert session.put() == coming
    session.hear(stage.bad, encoder.encode([Release([coming, key])]))
    assert session.row(coming).count == 1, "the driver's count is the driver's"


def test_a_call_with_an_unknown_input_fails_as_lost_and_the_key_stays_free(stage):
    session = stage.session
    coming = session.ids.following
    lost, named = stage.submit(deps=(coming, stage.object)), stage.submit(refs=(coming,))
    session.hear(stage.bad, encoder.encode([lost, named, stage.spawn(deps=(coming,))]))
    assert not stage.bad.outlaw
    assert isinstance(session.error(lost.spec.task), ObjectLostError)
    assert coming not in session.hub.rows and session.row(named.spec.task).spec.refs == ()
    assert session.put() == coming
    session.die(stage.bad)
    assert session.row(coming).count == 1


def test_a_refused_call_leaves_no_unknown_inputs_behind(stage):
    session = stage.session
    actor = session.actor(max_pending_calls=1)
    session.call(actor)
    call = stage.call(actor=actor, deps=(session.ids.following,))
    session.hear(stage.bad, encoder.encode([call]))
    assert session.row(call.spec.task).state == FAILED
    assert all(row.count > 0 for key, row in session.hub.rows.items() if row.spec is None)


def test_a_parent_that_is_not_running_is_none(stage):
    submit = stage.submit()
    stage.session.hear(stage.bad, encoder.encode([Submit(submit.spec, submit.options, submit.spec.task)]))
    stage.session.hub.cancel(submit.spec.task, False, True)
    assert not stage.bad.outlaw and stage.session.row(submit.spec.task).parent == 0


def test_a_wait_of_infinite_seconds_waits_for_ever(stage):
    session = stage.session
    session.hear(stage.bad, encoder.encode([Get(9, [stage.others], 1, float("inf"), True, False)]))
    assert not stage.bad.outlaw and session.hub.timers.next() != float("inf")
    session.done(stage.others)
    assert [values.request for values in stage.bad.link.of(Values)] == [9]


def test_a_value_that_lies_in_memory_is_not_lost_whatever_a_worker_says(stage):
    stage.session.hear(stage.bad, encoder.encode([Ask(9, "lose", encode_any([stage.object]))]))
    assert not stage.bad.outlaw and stage.session.row(stage.object).value == stage.place


def test_views_of_what_is_not_known_count_nowhere(stage):
    session = stage.session
    coming = session.ids.following
    session.hear(stage.bad, encoder.encode([Hold([~coming])]))
    assert session.put() == coming
    session.hear(stage.bad, encoder.encode([Release([~coming, coming])]))
    assert session.row(coming).count == 1


def test_a_constructor_is_not_given_back(session):
    actor = session.actor()
    worker = session.up_with(actor)
    session.hear(worker, encoder.encode([Back([actor])]))
    assert worker.outlaw


def test_a_definition_under_its_own_hash_is_taken_once(stage):
    blob = b"pickle"
    name = hashlib.blake2b(blob, digest_size=16).digest()
    stage.session.hear(stage.bad, encoder.encode([Export(name, blob, "k"), Export(name, b"other", "k")]))
    assert not stage.bad.outlaw and stage.session.hub.definitions[name].blob == blob


@pytest.mark.parametrize("verb", ["find", "cancel", "kill", "state", "spawn", "allocate", "lose", "resources", "fork"])
@pytest.mark.parametrize(
    "data", [b"", b"\xc1", b"\x91\x90", b"\x93\x80\x80\x80", b"\x91" * 100_000 + b"\x90", b"\xdd" + b"\xff" * 4]
)  # fmt: skip
def test_a_question_nobody_understands_is_answered_or_ends_its_worker(stage, verb, data):
    session = stage.session
    session.hear(stage.bad, encoder.encode([Ask(5, verb, data)]))
    answers = [message for message in stage.bad.link.of(Answer) if message.request == 5]
    assert stage.bad.outlaw or len(answers) == 1
    assert session.row(stage.object).value == stage.place
    stage.finish()


# ------------------------------------------------------------------ anything at all


def anything(stage: Stage, data: st.DataObject) -> object:
    """A message of any kind that names anything there is, or that could be."""
    session, draw = stage.session, data.draw
    rows = sorted(session.hub.rows)
    keys = st.one_of(
        st.sampled_from([stage.task, stage.others, stage.pair, stage.stream, stage.object, *rows]),
        st.integers(0, 3).map(lambda n: (stage.bad.client << 40) + n), st.just(HUGE), st.integers(0, HUGE),
        st.builds(lambda: stage.own(2)),
    )  # fmt: skip
    several = st.lists(keys, max_size=3)
    views = st.lists(keys.filter(lambda key: key < 2**63).map(lambda key: ~key), max_size=3)
    naming = several.map(tuple)
    inner = st.lists(st.sampled_from([stage.object]), max_size=2).map(tuple)
    places = [offset for worker in (stage.bad, stage.good) for offset, _ in worker.granted] + [stage.place.offset]
    blocks = st.builds(Stored, keys, st.sampled_from(places) | st.integers(0, 1 << 50),
                       st.sampled_from([0, 1, PAGE, PAGE + 1, HUGE]))  # fmt: skip
    values = st.sampled_from([NONE, ERROR, b""]) | blocks
    numbers = st.sampled_from([0, 1, 2, -1, -2, -3, 3, MOST_RETURNS + 1, -(2**63), 2**63, HUGE])
    resources = st.lists(st.tuples(st.sampled_from(["CPU", "GPU", "disk"]), numbers), max_size=2).map(tuple)
    options = st.builds(TaskOptions, resources=resources, returns=numbers, max_retries=numbers, max_calls=numbers,
                        backpressure=numbers, environment=st.sampled_from(["", "{}"]))  # fmt: skip
    specs = st.builds(TaskSpec, keys, st.sampled_from([b"g", b"Class", b""]), values, numbers, naming, naming,
                      st.just(0) | keys, st.sampled_from(["", "m"]))  # fmt: skip
    infos = st.builds(ActorInfo, keys, st.builds(ActorOptions, resources=resources, max_restarts=numbers,
                                                 name=st.sampled_from(["", "n"])), st.just(()))  # fmt: skip
    asks = st.one_of(
        st.builds(lambda request: Ask(1, "spawn", encoder.encode(request)), st.builds(SpawnRequest, specs, infos)),
        st.builds(lambda key, size: Ask(1, "allocate", encode_any([key, size])), keys, numbers | st.just(PAGE)),
        st.builds(lambda key: Ask(1, "lose", encode_any([key])), keys),
        st.builds(
            lambda verb, raw: Ask(1, verb, raw),
            st.sampled_from(["find", "state", "spill_folder"]),
            st.binary(max_size=20),
        ),
    )
    own = st.builds(stage.own)
    sizes = st.sampled_from([PAGE, 1, 2 * PAGE])
    spots = st.sampled_from(places)
    nearly = st.one_of(  # right but for one thing, or altogether
        st.builds(lambda spot, size: Done(stage.task, Stored(stage.task, spot, size)), spots, sizes),
        st.builds(lambda key, spot, size: Put(key, Stored(key, spot, size)), own, spots, sizes),
        st.builds(lambda key: Put(key, NONE), st.sampled_from([stage.object, stage.others, stage.task])),
        st.builds(lambda key: Next(stage.stream, key), st.sampled_from([stage.object, stage.others]) | own),
        st.builds(lambda key, need: Submit(TaskSpec(key, b"g", b""), TaskOptions(resources=need)), own, resources),
        st.builds(lambda key, spot, size: stage.submit(args=Stored(key, spot, size)), own, spots, sizes),
        st.builds(lambda key: stage.submit(deps=(key,), refs=(key,)), keys),
        st.builds(lambda spot: Unused([spot]), spots),
        st.builds(lambda count: Get(3, [stage.others], count, None, True, True), numbers),
    )
    times = st.none() | st.sampled_from([0.0, -1.0, float("inf"), float("-inf"), float("nan"), 1e300, 0.01])
    if draw(st.booleans()):
        return draw(nearly)
    return draw(st.one_of(
        st.builds(Done, keys, values, inner, numbers), st.builds(Done, st.just(stage.task), values, inner, numbers),
        st.builds(DoneMany, keys, st.lists(values, max_size=3), st.lists(inner, max_size=3), numbers),
        st.builds(Failed, keys, values.filter(lambda v: type(v) is bytes), st.booleans(), st.booleans(), numbers),
        st.builds(Item, keys, values, inner), st.builds(Submit, specs, options, keys),
        st.builds(Call, specs, st.builds(CallOptions, backpressure=numbers, max_retries=st.none() | numbers), keys),
        st.builds(Export, st.binary(max_size=2), st.binary(max_size=2), st.just("x")),
        st.builds(Put, keys, values, inner),
        st.builds(Get, numbers, several, numbers, times, st.booleans(), st.booleans()), asks,
        st.builds(Hold, several | views), st.builds(Release, several | views), st.builds(Back, several),
        st.builds(CloseStream, keys),
        st.builds(Next, keys, keys), st.builds(Unused, st.lists(st.sampled_from(places) | numbers, max_size=3)),
        st.builds(Hello, numbers), st.builds(Leaving, st.just("why"), st.booleans()),
    ))  # fmt: skip


@given(data=st.data())
@settings(max_examples=100)
def test_whatever_a_worker_sends_the_hub_stays_whole(data):
    stage = Stage()
    session = stage.session
    session.hub.hold(stage.stream)
    try:
        for _ in range(data.draw(st.integers(1, 6))):
            try:
                frame = encoder.encode([anything(stage, data)])
            except OverflowError:  # no such number can be sent
                continue
            try:
                session.hear(stage.bad, frame)
            except ValueError:  # the link ends the worker for what cannot be decoded
                break
            session.wait(0.05)
            blocks = [row.value for row in session.hub.rows.values() if isinstance(row.value, Stored)]
            places = [(value.offset, value.size) for value in blocks]
            places += [grant for worker in session.hub.workers.values() for grant in worker.granted]
            assert len({offset for offset, _ in places}) == len(places), "two objects share a block"
            assert session.row(stage.object).value == stage.place and session.row(stage.object).state == READY
            assert sum(map(bool, [stage.bad.outlaw])) == sum("nonsense" in text for text in session.warnings)
        session.die(stage.bad)
        for worker in list(session.hub.workers.values()):
            if worker.actor is not None:
                session.die(worker)
        assert session.row(stage.others).state == 0 or session.row(stage.others).state == FAILED
        free, total = session.hub.scheduler.free, session.hub.scheduler.total
        assert all(free.get(name, 0) <= total[name] for name in total)
        session.hub.release(stage.stream)
    finally:
        session.close()
