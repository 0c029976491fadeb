"""Federated averaging of Flower, its clients simulated by actors."""

import numpy as np
from flwr.client import ClientApp, NumPyClient
from flwr.common import Context, ndarrays_to_parameters
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.simulation import run_simulation

seen = []


class Client(NumPyClient):
    def __init__(self, number):
        self.target = np.full(4, float(number))

    def fit(self, parameters, config):
        return [parameters[0] + 0.5 * (self.target - parameters[0])], 10, {}

    def evaluate(self, parameters, config):
        return float(np.abs(parameters[0] - self.target).mean()), 10, {}


def client_fn(context: Context):
    return Client(int(context.node_config["partition-id"])).to_client()


def server_fn(context: Context):
    strategy = FedAvg(
        initial_parameters=ndarrays_to_parameters([np.zeros(4)]),
        evaluate_fn=lambda number, parameters, config: seen.append(float(parameters[0][0])) or (0.0, {}),
    )
    return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=3))


if __name__ == "__main__":
    run_simulation(
        ServerApp(server_fn=server_fn),
        ClientApp(client_fn=client_fn),
        num_supernodes=4,
        backend_config={"init_args": {"num_cpus": 2}, "client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    print("result:", seen)
