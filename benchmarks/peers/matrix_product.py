"""Rate of a matrix product in PyTorch: ``python -m torch.distributed.run --nproc-per-node 2 matrix_product.py``.

Every rank multiplies square matrices on an equal part of the cores, at the same time as the others. Almost all operations of a
training are matrix products, so the rate of all ranks together limits its speed. The product is that of oneDNN, as in MXNet;
``torch.mm`` in float32 is MKL's, which has half its rate on CPUs of AMD.
"""

from __future__ import annotations

import argparse
import json
import os
import time

import torch
import torch.distributed as dist
from torch import nn

SIZE = 2048


def main() -> None:
    """Multiply for some seconds and print the operations per second of all ranks as a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=5, help="of the measurement (default: %(default)s)")
    options = parser.parse_args()
    dist.init_process_group("gloo")
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // dist.get_world_size()))
    torch.manual_seed(0)
    left, right = (torch.randn(SIZE, SIZE).to(getattr(torch, options.precision)).to_mkldnn() for _ in range(2))

    def flops_per_s(seconds: float) -> torch.Tensor:
        dist.barrier()
        started, count = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - started) < seconds or count == 0:
            nn.functional.linear(left, right)
            count += 1
        return torch.tensor(count * 2 * SIZE**3 / elapsed, dtype=torch.float64)

    flops_per_s(0)  # starts the threads
    rate = flops_per_s(options.seconds)
    dist.all_reduce(rate)
    if dist.get_rank() == 0:
        print(json.dumps({"flops_per_s": rate.item()}), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
