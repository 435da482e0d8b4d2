"""Text as language models read it: MiniLM's token states of every caption, computed once.

Differs from MusicGen in the encoder: `all-MiniLM-L6-v2` (384-d, shipped in a Python package) in place of T5-base.

    python -m pipeline.conditioning --downloads .cache/downloads --manifest results/corpus/manifest.parquet \
        --out results/lm/text
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline import job
from pipeline.fetch import minilm_folder
from pipeline.files import atomic

MAX_TOKENS = 48  # of a caption; what is longer is cut
BATCH_SIZE = 64  # captions


class TextStates:
    """Token states of captions, packed: those of caption i are rows `offsets[i]` to `offsets[i + 1]`."""

    def __init__(self, states: Tensor, offsets: Tensor, captions: Sequence[str]) -> None:
        """States `[sum L, D]`, offsets `[N + 1]`, and the N captions."""
        self.states, self.offsets = states, offsets
        self.index = {caption: i for i, caption in enumerate(captions)}

    @property
    def dimension(self) -> int:
        """D."""
        return self.states.shape[1]

    def rows(self, captions: Sequence[str]) -> np.ndarray:
        """Index of each caption.

        Raises:
            ValueError: a caption was not embedded.
        """
        unknown = [caption for caption in captions if caption not in self.index]
        if unknown:
            raise ValueError(
                f"{len(unknown)} of {len(captions)} captions have no text states, the first is {unknown[0]!r}: "
                "run pipeline.conditioning on this manifest first"
            )
        return np.array([self.index[caption] for caption in captions], dtype=np.int64)

    def batch(self, rows: Sequence[int] | np.ndarray) -> tuple[Tensor, Tensor]:
        """States `[B, L, D]`, float32, zero past a caption's end, and where they exist, `[B, L]`, bool."""
        parts = [self.states[self.offsets[i] : self.offsets[i + 1]] for i in rows]
        states = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True).float()
        lengths = torch.tensor([len(part) for part in parts])
        return states, torch.arange(states.shape[1]) < lengths[:, None]


def embed(captions: Sequence[str], folder: Path) -> TextStates:
    """Last hidden states of the encoder in `folder`, [CLS] and [SEP] among them, for unique captions."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    encoder = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    if encoder.get_input_embeddings().num_embeddings != len(tokenizer):
        raise ValueError(f"{folder}: the tokenizer has {len(tokenizer)} tokens, not those of the encoder beside it")
    tokens = [tokenizer(c, truncation=True, max_length=MAX_TOKENS)["input_ids"] for c in captions]
    states: list[Tensor] = [torch.empty(0)] * len(tokens)
    # Captions of like length stand together, so that little is padded.
    order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
    with job.Progress("lm/text", len(order), "caption") as progress, torch.inference_mode():
        for start in range(0, len(order), BATCH_SIZE):
            chosen = order[start : start + BATCH_SIZE]
            batch = tokenizer.pad({"input_ids": [tokens[i] for i in chosen]}, return_tensors="pt")
            hidden = encoder(**batch).last_hidden_state.half()
            for i, row in zip(chosen, hidden, strict=True):
                states[i] = row[: len(tokens[i])]
            progress.update(start + len(chosen))
    offsets = torch.tensor([0, *np.cumsum([len(s) for s in states])])
    return TextStates(torch.cat(states), offsets, captions)


def caption_columns(manifest: pd.DataFrame) -> list[str]:
    """Names of the columns that hold paraphrases, `caption_0` to `caption_{P-1}`.

    Raises:
        ValueError: there is none.
    """
    columns = [f"caption_{i}" for i in range(len(manifest.columns)) if f"caption_{i}" in manifest]
    if not columns:
        raise ValueError("the manifest has no column caption_0: run the captions stage on it first")
    return columns


def save(text: TextStates, folder: Path) -> None:
    """Writes `states.safetensors` and `captions.parquet`."""
    with atomic(folder / "states.safetensors") as temporary:
        save_file({"states": text.states, "offsets": text.offsets}, temporary)
    with atomic(folder / "captions.parquet") as temporary:
        pd.DataFrame({"caption": list(text.index), "index": list(text.index.values())}).to_parquet(temporary)


def load(folder: Path | str) -> TextStates:
    """Reads what `save` wrote; ValueError where it is missing."""
    folder = Path(folder)
    missing = [name for name in ("states.safetensors", "captions.parquet") if not (folder / name).exists()]
    if missing:
        raise ValueError(f"{folder} holds no text states: {' and '.join(missing)} missing; run pipeline.conditioning")
    return TextStates(
        **load_file(folder / "states.safetensors"),
        captions=pd.read_parquet(folder / "captions.parquet").sort_values("index")["caption"].tolist(),
    )


def main() -> None:
    """Embeds each unique caption of a manifest once."""
    parser = job.parser("Embed the captions of a manifest.")
    parser.add_argument("--downloads", type=Path, required=True, help="folder that keeps what was downloaded")
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    job.prepare(args)
    torch.set_float32_matmul_precision("medium")
    manifest = pd.read_parquet(args.manifest)
    captions = pd.unique(manifest[caption_columns(manifest)].to_numpy().ravel())
    save(embed(list(captions), minilm_folder(args.downloads)), args.out)


if __name__ == "__main__":
    job.run(main)
