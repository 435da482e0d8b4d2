"""A run's state in one file: what is loaded is what was saved, of this very run, and the same bytes each time."""

from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.training import Saved, load_run, resume_run, save_run

HISTORY = [{"step": 1, "loss": 0.1}, {"step": 2, "loss": 1 / 3}]


def parts(seed: int, steps: int = 0) -> tuple[dict[str, nn.Module], dict[str, torch.optim.Optimizer]]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
    return {"model": model}, {"optimizer": optimizer}


def save(path: Path, modules: dict, optimizers: dict) -> None:
    save_run(path, modules, optimizers, step=2, history=HISTORY, digest="this")


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    modules, optimizers = parts(0, steps=2)
    save(tmp_path / "run.safetensors", modules, optimizers)
    again, optimizers_again = parts(1)
    assert load_run(tmp_path / "run.safetensors", again, optimizers_again) == Saved(2, HISTORY)
    for name, value in modules["model"].state_dict().items():
        assert torch.equal(value, again["model"].state_dict()[name]), name
    before, after = (o["optimizer"].state_dict()["state"] for o in (optimizers, optimizers_again))
    assert before.keys() == after.keys()
    for index, state in before.items():
        assert all(torch.equal(value, after[index][name]) for name, value in state.items())


def test_the_same_run_is_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path / name, *parts(0, steps=2))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_run_that_has_not_stepped_is_kept_too(tmp_path: Path) -> None:
    save(tmp_path / "run", *parts(0))
    modules, optimizers = parts(1)
    load_run(tmp_path / "run", modules, optimizers)
    assert torch.equal(modules["model"][0].weight, parts(0)[0]["model"][0].weight)
    assert optimizers["optimizer"].state_dict()["state"] == {}


def test_only_this_very_run_is_resumed(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    assert resume_run(path, *parts(1), "this") is None
    save(path, *parts(0, steps=2))
    other = parts(1)
    weight = other[0]["model"][0].weight.clone()
    assert resume_run(path, *other, "that") is None
    assert torch.equal(other[0]["model"][0].weight, weight)
    assert resume_run(path, *other, "this") == Saved(2, HISTORY)
    assert not torch.equal(other[0]["model"][0].weight, weight)


def test_a_run_with_other_parts_is_named(tmp_path: Path) -> None:
    modules, optimizers = parts(0, steps=1)
    save(tmp_path / "run", {**modules, "discriminator": nn.Linear(1, 1)}, optimizers)
    with pytest.raises(
        ValueError, match=r"holds \['discriminator', 'model'\], this run needs \['model'\]: train it anew"
    ):
        load_run(tmp_path / "run", *parts(0))
