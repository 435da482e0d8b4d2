"""Your own recording through two codecs, without the loss and with it: how it sounds, what its codebooks share, and how
each one's language model goes on.

    python -m pipeline.try song.mp3
    python -m pipeline.try song.mp3 --seconds 20 --continuation 10 --out tried

It uses the models in `models/`, which `pipeline.exchange.release` wrote, and writes a page with players.
"""

import argparse
import html
import math
from pathlib import Path

import numpy as np
import torch

from pipeline import audio, files, job
from pipeline.codec import model as codecs
from pipeline.dependence.information import shuffled
from pipeline.dependence.pairwise import pairwise
from pipeline.generation import sampling
from pipeline.generation.compose import OVERLAP
from pipeline.lm import model as language_models

MODELS = Path(__file__).parents[1] / "models"
SHUFFLES = 5
MOVED = 2.0  # s between the frames that the control pairs
PROMPT = 3.0  # s at the end of the recording that a continuation follows
TOP_K, TEMPERATURE, SEED = 64, 1.0, 0
ONE = "One recording may differ from the study's mean, which results/index.html has."
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: auto; padding: 1rem; color-scheme: light dark; }
div { overflow-x: auto; }
table { border-collapse: collapse; } td, th { text-align: left; padding: .3rem .8rem .3rem 0; } audio { width: 16rem; }
"""


def shared(codes: np.ndarray, codebook_size: int, frame_rate: float) -> tuple[float, float]:
    """Bits a frame that codes `[K, T]` share over all pairs: at the same time, and `MOVED` seconds apart.

    Both are plug-in estimates above their mean for shuffled codes, which few frames need. The second is what the piece
    as a whole makes alike; only the rest is what the loss is about.
    """
    generator = np.random.default_rng(SEED)
    frames = round(MOVED * frame_rate)
    apart = np.stack([np.roll(stream, k * frames) for k, stream in enumerate(codes)])
    found = []
    for streams in (codes, apart):
        orders = [shuffled(streams, generator) for _ in range(SHUFFLES)]
        found.append(float(pairwise(streams, orders, codebook_size)["shuffled_baseline"].mutual_information.sum()))
    return found[0], found[1]


def go_on(model: language_models.LanguageModel, codes: torch.Tensor, frames: int) -> torch.Tensor:
    """Codes `[1, K, P + frames]` that begin with the last P of `codes` `[1, K, T]`, without any text."""
    prompt = codes[:, :, -min(codes.shape[2], model.shape.frames // 2) :]
    total = prompt.shape[2] + frames
    nothing = torch.zeros(1, 1, model.shape.text_dimension)
    return sampling.extend(
        model,
        nothing,
        torch.zeros(1, 1, dtype=torch.bool),
        frames=total,
        overlap=int(OVERLAP * model.shape.frames),
        uniforms=sampling.clip_uniforms(["try"], SEED, model.shape.codebooks, total),
        guidance_scale=1.0,
        top_k=TOP_K,
        temperature=TEMPERATURE,
        prompt=prompt,
    )


def main() -> None:
    """Writes sounds, numbers and the page."""
    parser = argparse.ArgumentParser(description="Try the study's models on a recording of your own.")
    parser.add_argument("recording", type=Path, help="an audio file")
    parser.add_argument("--models", type=Path, default=MODELS, help="folder of the models (default: models/)")
    parser.add_argument("--seconds", type=float, default=30.0, help="of the recording, from its beginning")
    parser.add_argument("--continuation", type=float, default=5.0, help="seconds that each language model adds")
    parser.add_argument("--out", type=Path, default=Path("tried"), help="folder for the page (default: tried)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = sorted(path.parent.parent.name for path in args.models.glob("*/codec/model.json"))
    if not names:
        raise ValueError(f"{args.models} has no models: clone the whole repository, or name their folder by --models")
    for name in ("seconds", "continuation"):
        if not 0 < getattr(args, name) < math.inf:
            raise ValueError(f"--{name} is {getattr(args, name):g}: give a number of seconds above 0")
    heard = audio.read(args.recording)
    if not heard.waveform.any():
        raise ValueError(f"{args.recording} is silent: give a recording with something to hear")
    rows: list[tuple[str, float, float]] = []
    for name in names:
        codec = codecs.load(args.models / name / "codec")
        waveform = audio.resample(heard.waveform, heard.rate, codec.sample_rate)[
            : round(args.seconds * codec.sample_rate)
        ]
        # Fewer frames than codes say nothing of what they share.
        needed = max(PROMPT, codec.configuration["codebook_size"] / codec.frame_rate)
        if len(waveform) < codec.sample_rate * needed:
            raise ValueError(
                f"{len(waveform) / codec.sample_rate:.1f} s of {args.recording}, and {needed:.1f} s are needed: "
                "give a longer recording"
            )
        if not rows:
            audio.write_wav(args.out / "recording.wav", waveform, codec.sample_rate)
        codes = codec.encode(torch.from_numpy(waveform)[None])
        audio.write_wav(args.out / f"{name}.wav", codec.decode(codes)[0].numpy(), codec.sample_rate)
        model = language_models.load(args.models / name / "lm")
        last = codes[:, :, -round(PROMPT * codec.frame_rate) :]
        longer = codec.decode(go_on(model, last, round(args.continuation * codec.frame_rate)))
        audio.write_wav(args.out / f"{name}-continued.wav", longer[0].numpy(), codec.sample_rate)
        now, apart = shared(codes[0].numpy(), codec.configuration["codebook_size"], codec.frame_rate)
        print(f"{name}: codebooks share {now:.2f} bits a frame, of which {apart:.2f} remain {MOVED:g} s apart")
        rows.append((name, now, apart))
    with files.atomic(args.out / "index.html") as temporary:
        temporary.write_text(page(args.recording.name, rows))
    print(f"The loss is meant to remove what does not remain. {ONE}")
    print(f"listen: {args.out / 'index.html'}")


def page(title: str, rows: list[tuple[str, float, float]]) -> str:
    """The page: a row a codec."""

    def player(name: str) -> str:
        return f'<td><audio controls preload="none" src="{html.escape(name, quote=True)}"></audio></td>'

    heads = (
        "codec",
        "through the codec",
        f"continued after its last {PROMPT:g} s",
        "shared (bits a frame)",
        f"of which remain {MOVED:g} s apart",
    )
    body = "".join(
        f"<tr><td>{html.escape(name)}</td>{player(f'{name}.wav')}{player(f'{name}-continued.wav')}"
        f"<td>{now:.2f}</td><td>{apart:.2f}</td></tr>"
        for name, now, apart in rows
    )
    table = f"<div><table><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>{body}</table></div>"
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><style>{STYLE}</style>'
    says = (
        "What codebooks share at the same time, and what they share seconds apart, which is only that it is one piece "
        f"of music. The difference is what the loss is meant to remove. {ONE}"
    )
    name = html.escape(title)
    return (
        f'<!doctype html><html lang="en">{head}<title>{name}</title><h1>{name}</h1><p>The recording: '
        f'<audio controls preload="none" src="recording.wav"></audio></p>{table}<p>{says}</p></html>\n'
    )


if __name__ == "__main__":
    job.run(main)
