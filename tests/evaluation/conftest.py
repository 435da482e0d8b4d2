"""What the evaluation's tests share."""

from pathlib import Path

import pytest
from evaluations import Evaluation


@pytest.fixture
def evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluation:
    """A small corpus and a system's audio in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    return Evaluation(monkeypatch)
