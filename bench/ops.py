"""What small operators cost in Python's torch, in nanoseconds a call: the peer of ops.ts, run by it."""

import json
import sys
import time

import torch

torch.set_grad_enabled(False)
torch.set_num_threads(1)


def nanoseconds(call, rounds: int, repeats: int = 7) -> float:
    """The least mean over a few repeats: what the rest of the machine does is no part of it."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter_ns()
        for _ in range(rounds):
            call()
        best = min(best, (time.perf_counter_ns() - start) / rounds)
    return best


def main() -> None:
    rounds = int(sys.argv[1])
    x, y, weight = torch.ones(2, 2), torch.ones(2, 2), torch.ones(2, 2)
    cases = {
        "x.add(y)": lambda: x.add(y),
        "x.mul(2)": lambda: x.mul(2),
        "x.add_(y)": lambda: x.add_(y),
        "x.narrow(0, 0, 1)": lambda: x.narrow(0, 0, 1),
        "x.view([4])": lambda: x.view([4]),
        "x.mm(y)": lambda: x.mm(y),
        "x.linear(w)": lambda: torch.nn.functional.linear(x, weight),
        "cat([x, y])": lambda: torch.cat([x, y]),
        "x.sum().item()": lambda: x.sum().item(),
    }
    print(json.dumps({name: nanoseconds(call, rounds) for name, call in cases.items()}))


main()
