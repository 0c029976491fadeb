"""A Burr application whose parallel actions run in a Ray executor."""

import ray
from burr.core import ApplicationBuilder, State, action, default, when
from burr.core.parallelism import MapStates, RunnableGraph, SubgraphType
from burr.integrations.ray import RayExecutor


@action(reads=["number"], writes=["steps"])
def collatz(state: State) -> State:
    number, steps = state["number"], 0
    while number != 1:
        number, steps = (3 * number + 1 if number % 2 else number // 2), steps + 1
    return state.update(steps=steps)


class EachNumber(MapStates):
    def action(self, state: State, inputs: dict) -> SubgraphType:
        return collatz

    def states(self, state: State, context, inputs: dict):
        for number in state["numbers"]:
            yield state.update(number=number)

    def reduce(self, state: State, states) -> State:
        return state.update(counts=[one["steps"] for one in states])

    @property
    def reads(self) -> list[str]:
        return ["numbers"]

    @property
    def writes(self) -> list[str]:
        return ["counts"]


ray.init(num_cpus=2)
application = (
    ApplicationBuilder()
    .with_actions(many=EachNumber(), one=collatz)
    .with_transitions(("many", "one", when(number=0)), ("many", "many", default))
    .with_entrypoint("many")
    .with_state(State({"numbers": list(range(1, 25)), "number": 27}))
    .with_parallel_executor(RayExecutor)
    .build()
)
_, _, state = application.run(halt_after=["many"])
assert RunnableGraph is not None
print("result:", state["counts"])
ray.shutdown()
