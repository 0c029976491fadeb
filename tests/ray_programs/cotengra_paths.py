"""Contraction paths searched by cotengra, its trials as Ray tasks."""

import cotengra as ctg
import ray

ray.init(num_cpus=2)
inputs, output, shapes, size_dict = ctg.utils.lattice_equation([6, 6], seed=3)
search = ctg.HyperOptimizer(
    methods=["greedy"], max_repeats=16, parallel="ray", optlib="random", seed=7, progbar=False, minimize="flops"
)
tree = search.search(inputs, output, size_dict)
direct = ctg.array_contract_tree(inputs, output, size_dict, optimize="greedy")
print("result:", tree.N, tree.is_complete(), tree.contraction_cost() <= direct.contraction_cost() * 2)
ray.shutdown()
