"""Train a linear model with a parameter server: one actor holds the weights, others learn.

Each learner is an actor with its own share of the data. In every round it gets the weights from
the server, computes the gradient of its share, and sends that back. The driver passes references
around and waits for the end of a round; weights and gradients do not come its way.

Needs NumPy: pip install 'skate-ray[numpy]'
"""

from __future__ import annotations

from typing import Any

import numpy as np

import skate as ray

FEATURES = 20
ROWS = 2_000
LEARNERS = 3
ROUNDS = 60
RATE = 0.3


@ray.remote
class Server:
    """The weights. One call at a time, in order: no lock is needed."""

    def __init__(self) -> None:
        self.weights = np.zeros(FEATURES)

    def read(self) -> Any:
        return self.weights

    def step(self, *gradients: Any) -> Any:
        """Take one step against the mean of the gradients; return the new weights."""
        # A new array, not `-=`: whoever read the old weights keeps what was read.
        self.weights = self.weights - RATE * np.mean(gradients, axis=0)
        return self.weights


@ray.remote
class Learner:
    """A share of the data, made where it is used."""

    def __init__(self, seed: int) -> None:
        self.inputs, self.targets = make_data(seed)

    def gradient(self, weights: Any) -> Any:
        """Return the gradient of half the mean squared error."""
        return self.inputs.T @ (self.inputs @ weights - self.targets) / ROWS


def true_weights() -> Any:
    return np.linspace(-1, 1, FEATURES)


def make_data(seed: int) -> Any:
    numbers = np.random.default_rng(seed)
    inputs = numbers.normal(size=(ROWS, FEATURES))
    return inputs, inputs @ true_weights() + numbers.normal(scale=0.1, size=ROWS)


def main() -> None:
    ray.init()
    server = Server.remote()
    learners = [Learner.remote(seed) for seed in range(LEARNERS)]
    weights = server.read.remote()
    for number in range(ROUNDS):
        gradients = [learner.gradient.remote(weights) for learner in learners]
        weights = server.step.remote(*gradients)
        if number % 20 == 0:
            error = np.abs(ray.get(weights) - true_weights()).max()
            print(f"round {number:2}: largest error of a weight {error:.3f}")

    error = np.abs(ray.get(weights) - true_weights()).max()
    assert error < 0.02, error
    print(f"parameter_server: learnt {FEATURES} weights to within {error:.3f}")
    ray.shutdown()


if __name__ == "__main__":
    main()
