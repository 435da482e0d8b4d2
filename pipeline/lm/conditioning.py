"""Text as language models read it: an encoder's token states of every caption, computed once for all models.

The default differs from MusicGen in the encoder: `all-MiniLM-L6-v2` (384-d, shipped in a Python package) in place of
T5-base, which `conditioner.encoder` takes from a folder, or by its name where the model hub can be reached.

    python -m pipeline.lm.conditioning --downloads .cache/downloads --manifest results/corpus/manifest.parquet \
        --out results/lm/text
"""

import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline import job, manifest, params
from pipeline.fetch import minilm_folder
from pipeline.files import atomic
from pipeline.lm.transformer import set_matmul_precision

MINILM = "minilm"
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
                "run pipeline.lm.conditioning on this manifest first"
            )
        return np.array([self.index[caption] for caption in captions], dtype=np.int64)

    def batch(self, rows: Sequence[int] | np.ndarray) -> tuple[Tensor, Tensor]:
        """States `[B, L, D]`, float32, zero past a caption's end, and where they exist, `[B, L]`, bool."""
        parts = [self.states[self.offsets[i] : self.offsets[i + 1]] for i in rows]
        states = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True).float()
        lengths = torch.tensor([len(part) for part in parts])
        return states, torch.arange(states.shape[1]) < lengths[:, None]


def embed(captions: Sequence[str], source: Path | str, max_tokens: int) -> TextStates:
    """Last hidden states of an encoder, those of its special tokens among them, for unique captions.

    Args:
        captions: texts, of which at most `max_tokens` tokens are read.
        source: folder of the encoder, or its name on the model hub; of a T5 the encoder alone is used.
        max_tokens: including special tokens.

    Raises:
        JobError: there is no such encoder.
        ValueError: its tokenizer is another's.
    """
    # Rules keep every job off the hub; a name is the one wish to reach it, and out of reach it may be in the cache.
    local = Path(source).is_dir() or not _hub_answers()
    os.environ["HF_HUB_OFFLINE"] = "1" if local else "0"
    from transformers import AutoModelForTextEncoding, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=local)
        encoder = AutoModelForTextEncoding.from_pretrained(source, local_files_only=local).eval()
    except (OSError, ValueError) as error:
        raise job.JobError(
            f"conditioner.encoder is {source}: no text encoder there ({str(error).splitlines()[0]}); give the folder "
            f"of one, as `save_pretrained` writes it, a hub's name if the hub can be reached from here, or {MINILM}"
        ) from None
    # T5 rounds its embeddings up to a multiple of 128.
    if not 0 <= encoder.get_input_embeddings().num_embeddings - len(tokenizer) < 128:
        raise ValueError(f"{source}: the tokenizer has {len(tokenizer)} tokens, not those of the encoder beside it")
    tokens = [tokenizer(c, truncation=True, max_length=max_tokens)["input_ids"] for c in captions]
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


def _hub_answers() -> bool:
    """Whether the model hub can be reached; asked without one, its own client tries again for minutes."""
    try:
        urllib.request.urlopen(os.environ.get("HF_ENDPOINT", "https://huggingface.co"), timeout=10).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


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
        raise ValueError(f"{folder} holds no text states: {' and '.join(missing)} missing; run the text stage again")
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
    set_matmul_precision(job.prepare(args))
    settings = params.section(args.params, "conditioner", params.Conditioner)
    clips = manifest.read(args.manifest)
    captions = pd.unique(clips[manifest.caption_columns(clips)].to_numpy().ravel())
    source = minilm_folder(args.downloads) if settings.encoder == MINILM else settings.encoder
    save(embed(list(captions), source, settings.max_tokens), args.out)


if __name__ == "__main__":
    job.run(main)
