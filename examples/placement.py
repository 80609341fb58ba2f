"""Who computes how much: divisible work and the layers of a model over nodes that are not alike.

    pip install 'kelm[cluster]'
    python examples/placement.py

On the command line the second plan is `kelm cluster plan MODEL --node NAME,power=P,bandwidth=B,memory=SIZE ...`.
"""

from __future__ import annotations

from kelm.cluster.placement import Costs, Node, Work, divide, split_layers

POWERS = (8, 4, 4, 2)
COSTS = Costs(compute=1.0, communication=0.1)


def main() -> None:
    nodes = [Node(name=f"node-{i}", power=power) for i, power in enumerate(POWERS)]
    print("ten units of computing that move twenty units of data:")
    print(divide(Work(compute=10, data=20), nodes, COSTS).table())
    small = [Node(name="big", power=8, memory_bytes=5), Node(name="small", power=4, memory_bytes=16)]
    print("twelve layers, of which the faster node can hold five:")
    print(split_layers([Work(compute=1, data=0.1, memory_bytes=1)] * 12, small, COSTS).table())


if __name__ == "__main__":
    main()
