"""What training the codec and the language models has in common: a run's state in one file, from which it continues."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.files import atomic

History = list[dict[str, float]]  # a row a validation; each has a `step`


class Saved(NamedTuple):
    """Where a saved run stands."""

    step: int
    history: History


def save_run(
    path: Path,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, Optimizer],
    *,
    step: int,
    history: History,
    digest: str,
) -> None:
    """Writes all that a run needs to continue bit by bit to one file, so that a kill leaves no two that disagree.

    `digest` is of what makes the run this one and no other: parameters, data, code.
    """
    tensors: dict[str, Tensor] = {}
    for part, module in modules.items():
        tensors |= {f"{part}.{name}": value.contiguous() for name, value in module.state_dict().items()}
    for part, optimizer in optimizers.items():
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"{part}.{index}.{name}": value.contiguous() for name, value in state.items()}
    # One entry: several come in another order each time, and the same run is the same bytes.
    about = {"run": json.dumps({"digest": digest, "step": step, "history": history})}
    with atomic(path) as temporary:
        save_file(tensors, temporary, about)


def load_run(path: Path, modules: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer]) -> Saved:
    """Continues modules and optimizers, as they were given to `save_run`, from its file.

    Raises:
        ValueError: the file is of a run with other parts.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["run"])
        for name in file.keys():  # noqa: SIM118, it is no dictionary
            part, rest = name.split(".", 1)
            parts.setdefault(part, {})[rest] = file.get_tensor(name)
    if (held := set(parts) - set(optimizers)) != set(modules):
        raise ValueError(f"{path} holds {sorted(held)}, this run needs {sorted(modules)}: train it anew")
    for part, module in modules.items():
        module.load_state_dict(parts[part])
    for part, optimizer in optimizers.items():
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in parts.get(part, {}).items():
            index, key = name.split(".", 1)
            state.setdefault(int(index), {})[key] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return Saved(about["step"], about["history"])


def resume_run(
    path: Path, modules: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer], digest: str
) -> Saved | None:
    """As `load_run`, from the checkpoint that a killed job of this very run left; None where there is none."""
    if not path.exists():
        return None
    with safe_open(path, "pt") as file:
        if json.loads(file.metadata()["run"])["digest"] != digest:
            print(f"{path} is of another run; starting anew", flush=True)
            return None
    saved = load_run(path, modules, optimizers)
    print(f"continuing at step {saved.step} from {path}", flush=True)
    return saved
