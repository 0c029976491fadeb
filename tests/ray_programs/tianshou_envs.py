"""Environments of Tianshou's RayVectorEnv: each is an actor."""

import gymnasium as gym
import numpy as np
import ray
from tianshou.env import RayVectorEnv

ray.init(num_cpus=2)
envs = RayVectorEnv([lambda: gym.make("CartPole-v1") for _ in range(4)])
envs.seed([1, 2, 3, 4])
first, _ = envs.reset()
rewards, ends = 0.0, 0
for step in range(60):
    seen, reward, ended, cut, _ = envs.step(np.array([(step + env) % 2 for env in range(4)]))
    rewards, ends = rewards + float(reward.sum()), ends + int(ended.sum())
    if ended.any():
        envs.reset(np.where(ended)[0])
envs.close()
print("result:", np.round(first.sum(), 6), rewards, seen.shape)
ray.shutdown()
