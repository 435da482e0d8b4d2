"""Benchmarks: time and memory of this project's parts against their rivals, as ratios of medians from one run.

    make bench                          # all
    python tests/bench.py loss 2944     # one, of a size

Every measurement is a process of its own, and the sides take turns, so that neither a busy minute nor the other's
memory falls on one side alone.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAPER = (0.1, 1.0, 5.0, 10.0, 20.0, 50.0)
CODEBOOKS, DIMENSION = 4, 128
TURNS = {2944: 3, 11776: 1}  # of the loss, at the rows of one and of four of the paper's GPUs
TARGET = {2944: 5, 11776: 8}


def main() -> None:
    """Runs all benchmarks, or is the process of one measurement."""
    parser = argparse.ArgumentParser(description="Measure this project's parts against their rivals.")
    parser.add_argument("what", nargs="?", choices=["loss"], help="all, where it is left out")
    parser.add_argument("size", nargs="?", type=int, help="rows, for the loss")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(_measured(arguments.side, arguments.size, arguments.threads)))
        return
    for size in [arguments.size] if arguments.size else TURNS:
        _loss(size, arguments.threads)


def _loss(rows: int, threads: int) -> None:
    """Forward and backward of both estimators in tiles, against the dense formulas with gradient checkpointing."""
    print(f"loss, N = {rows}, K = {CODEBOOKS}, D = {DIMENSION}, {threads} thread(s)", flush=True)
    sides = [f"{place} {estimator}" for place in ("tiled", "dense") for estimator in ("closed_form", "permutation")]
    found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for _ in range(TURNS.get(rows, 3)):
        for side in sides:
            command = [sys.executable, __file__, "loss", str(rows), "--side", side, "--threads", str(threads)]
            answer = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
            found[side].append(json.loads(answer.stdout))
    median = {
        side: {key: statistics.median(turn[key] for turn in turns) for key in turns[0]} for side, turns in found.items()
    }
    for side, values in median.items():
        print(
            f"  {side:18} {values['seconds']:8.2f} s  {values['mebibytes']:8.0f} MiB  estimate {values['estimate']:.6f}"
        )
    for ours in sides[:2]:
        for theirs in sides[2:]:
            faster, leaner = (median[theirs][key] / median[ours][key] for key in ("seconds", "mebibytes"))
            wanted = f" (wanted: {TARGET[rows]}x)" if rows in TARGET else ""
            print(
                f"  {ours} against {theirs}: {faster:.1f}x the speed{wanted}, 1/{leaner:.0f} of the memory", flush=True
            )


def _measured(side: str, rows: int, threads: int) -> dict[str, float]:
    """Seconds, peak memory beyond the streams and the libraries, and the value."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import dense
    import torch

    from pipeline.independence import joint_rows, mmd, standardised

    torch.set_num_threads(threads)
    place, estimator = side.split()
    generator = torch.Generator().manual_seed(0)
    # Codes of few values, half of them shared: equal rows, as quantized streams have.
    codes = torch.randint(64, (CODEBOOKS, rows), generator=generator)
    codes[1, ::2] = codes[0, ::2]
    codebook = torch.randn(CODEBOOKS, 64, DIMENSION, generator=generator)
    streams = torch.stack([codebook[k][codes[k]].T for k in range(CODEBOOKS)])[None].requires_grad_()
    order = [torch.randperm(rows, generator=torch.Generator().manual_seed(k)) for k in range(CODEBOOKS)]

    def tiled() -> torch.Tensor:
        return mmd(streams, delay=False, estimator=estimator, bandwidths=PAPER, generator=generator).estimate

    def plain() -> torch.Tensor:
        standard = standardised(joint_rows(streams, delay=False))
        return (
            dense.closed_form(standard, PAPER)
            if estimator == "closed_form"
            else dense.permutation(standard, PAPER, order)
        )

    estimate: Callable[[], torch.Tensor] = tiled if place == "tiled" else plain
    torch.mm(torch.ones(64, 64), torch.ones(64, 64))  # the library's own start
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    value = estimate()
    value.backward()
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "mebibytes": (peak - before) / 1024, "estimate": value.item()}


if __name__ == "__main__":
    main()
