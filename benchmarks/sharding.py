"""Main memory of processes that are to share a model, until it is shared: built whole in each, or in the first alone.

Usage:
    python benchmarks/sharding.py [--processes 4] [--width 1024] [--depth 24]
"""

from __future__ import annotations

import argparse
import os
import resource
import socket
import statistics
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh

from vatt.models.backbone import Backbone
from vatt.models.tokenizers import VideoTokenizer
from vatt.models.transformer import Transformer
from vatt.objectives.videomae import VideoMAE
from vatt.training.pretrain import PretrainModule
from vatt.training.sharding import shard, without_memory

WHOLE, FIRST = "whole in every process", "in the first process alone"
GRID = (8, 14, 14)


def build(rank: int, how: str, arguments: argparse.Namespace, port: int, found: mp.Queue) -> None:
    """One of the processes: (rank, GB of weights, GB at most above what the imports take, seconds)."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    at = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=at, rank=rank, world_size=arguments.processes)
    before, began = peak(), time.perf_counter()
    sizes = {"width": arguments.width, "depth": arguments.depth, "heads": arguments.width // 64, "agg": False}
    encoder = without_memory(Transformer, **sizes) if how == FIRST and rank else Transformer(**sizes)
    tokenizer = VideoTokenizer(arguments.width, GRID, (2, 16, 16), positions="fixed")
    module = PretrainModule(Backbone({"video": tokenizer}, {"video": encoder}), VideoMAE(positions="fixed"))
    weights = sum(4 * parameter.numel() for parameter in module.parameters()) / 1e9
    shard(module, init_device_mesh("cpu", (arguments.processes,)), None)
    found.put((rank, weights, peak() - before, time.perf_counter() - began))
    dist.barrier()
    dist.destroy_process_group()


def peak() -> float:
    """The most memory this process has had, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    """Print both, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--depth", type=int, default=24)
    arguments = parser.parse_args()
    others = {}
    for how in (WHOLE, FIRST):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        found = mp.get_context("spawn").Queue()
        processes = mp.start_processes(
            build, (how, arguments, port, found), nprocs=arguments.processes, join=False, start_method="spawn"
        )
        rows = sorted(found.get() for _ in range(arguments.processes))
        processes.join()
        others[how] = statistics.median(memory for rank, _, memory, _ in rows if rank)
        print(
            f"{how:28} weights {rows[0][1]:.2f} GB; at most {rows[0][2]:.2f} GB in the first process, "
            f"{others[how]:.2f} in each other (median); {max(row[3] for row in rows):.1f} s"
        )
    print(f"memory of the others: 1 / {others[WHOLE] / others[FIRST]:.1f} of what it takes whole")


if __name__ == "__main__":
    main()
