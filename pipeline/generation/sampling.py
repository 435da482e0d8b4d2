"""Generation from a language model: KV cache, guidance, top-k sampling, one seed per clip, prompts, any duration.

    python -m pipeline.generation.sampling --lm results/lm/delay/mmd-seed0-lm0 --codec results/codec/mmd-seed0 \
        --manifest results/corpus/manifest.parquet --text results/lm/text --out results/generation/delay/mmd-seed0-lm0
"""

import argparse
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline import job, manifest, params, provenance
from pipeline.audio import to_int16
from pipeline.codec import model as codecs
from pipeline.files import atomic, write_array, write_json
from pipeline.lm import conditioning
from pipeline.lm import model as language_model
from pipeline.lm.model import LanguageModel
from pipeline.lm.transformer import set_matmul_precision


@torch.no_grad()
def generate(
    model: LanguageModel,
    text: Tensor,
    text_mask: Tensor,
    *,
    frames: int,
    uniforms: Tensor,
    guidance_scale: float,
    top_k: int,
    temperature: float,
    decoding: str = "factorised",
    prompt: Tensor | None = None,
) -> Tensor:
    """Codes `[B, K, T]` for B texts, step by step of the model's codebook pattern.

    Guidance (Ho and Salimans 2022): logits = null + scale (conditional - null), both from one batch of 2 B rows.
    A model with depth heads draws the codebooks of a step one after another, each given those before it.

    Args:
        model: the language model.
        text: token states `[B, L, D]`.
        text_mask: which of them exist `[B, L]`, bool.
        frames: T.
        uniforms: one number in [0, 1) per token `[B, K, T]`, which decides it (see `sample`).
        guidance_scale: 1 leaves the null text out.
        top_k: how many of the likeliest tokens may be drawn; 1 is greedy.
        temperature: the logits are divided by it.
        decoding: how the codebooks of one step are drawn, one of `DECODINGS`.
        prompt: codes of the first P frames `[B, K, P]`, which are kept and continued.

    Raises:
        ValueError: `uniforms` is not `[B, K, T]`, or `prompt` not `[B, K, P]` with P <= T.
    """
    pattern = model.pattern(frames)
    clips, codebooks = len(text), model.shape.codebooks
    if uniforms.shape != (clips, codebooks, frames):
        raise ValueError(f"uniforms must be {(clips, codebooks, frames)}, got {tuple(uniforms.shape)}")
    codes = torch.full((clips, codebooks, frames), model.special, device=text.device)
    wanted = torch.ones(1, codebooks, frames, dtype=torch.bool)
    if prompt is not None:
        if prompt.ndim != 3 or prompt.shape[:2] != codes.shape[:2] or prompt.shape[2] > frames:
            raise ValueError(f"prompt must be {(clips, codebooks)} and at most {frames}, got {tuple(prompt.shape)}")
        codes[:, :, : prompt.shape[2]] = prompt
        wanted[:, :, : prompt.shape[2]] = False
    draw: Draw = params.choice("DECODINGS", decoding)
    guided = guidance_scale != 1
    if guided:
        text, text_mask = torch.cat([text, text]), torch.cat([text_mask, torch.zeros_like(text_mask)])
    cache = model.transformer.cache(*model.condition(text, text_mask), pattern.steps, model.rotation(pattern))
    noise = pattern.lay_out(uniforms, 0)
    wanted = pattern.lay_out(wanted, False)[0]
    laid = F.pad(pattern.lay_out(codes, model.special), (1, 0), value=model.special)
    drawn_at = wanted.any(dim=0).nonzero().flatten().tolist()
    first = drawn_at[0] if drawn_at else pattern.steps
    if first:
        embedded = model.embed(laid[:, :, :first])
        model.transformer.prefill(embedded.repeat(2, 1, 1) if guided else embedded, cache)
    spans = [(int(at[0]), int(at[-1]) + 1) if len(at := column.nonzero()) else (0, 0) for column in wanted.T]
    wanted = wanted.to(text.device)
    for step in range(first, pattern.steps):
        embedded = model.embed(laid[:, :, step : step + 1])[:, 0]
        hidden = model.transformer.step(embedded.repeat(2, 1) if guided else embedded, cache, step)
        for part in in_turn(*spans[step], at_once=not model.shape.depth):
            drawn = draw(
                model,
                hidden,
                laid[:, :, step + 1],
                part,
                noise[:, part, step],
                guidance_scale=guidance_scale,
                top_k=top_k,
                temperature=temperature,
            )
            now = laid[:, part, step + 1]
            now.copy_(torch.where(wanted[part, step], drawn, now))
    return pattern.collect(laid[:, :, 1:])


def in_turn(start: int, stop: int, *, at_once: bool) -> list[slice]:
    """The codebooks from `start` up to `stop` in the order of drawing: at once, or one after another."""
    if at_once:
        return [slice(start, stop)] if start < stop else []
    return [slice(k, k + 1) for k in range(start, stop)]


def extend(
    model: LanguageModel, text: Tensor, text_mask: Tensor, *, frames: int, overlap: int, uniforms: Tensor, **how: Any
) -> Tensor:
    """As `generate`, for any number of frames: past the length T of training a window slides, whose first `overlap`
    frames are the last ones before it.

    Differs from MusicGen in nothing but the name: there the stride is given, T - `overlap`.

    Raises:
        ValueError: as `generate`; or `overlap` is not between 0 and T - 1.
    """
    window = model.shape.frames
    if not 0 <= overlap < window:
        raise ValueError(f"the overlap must be from 0 to {window - 1} frames, the model's {window} less one: {overlap}")
    prompt = how.pop("prompt", None)
    codes = text.new_empty((len(text), model.shape.codebooks, 0), dtype=torch.int64) if prompt is None else prompt
    while codes.shape[2] < frames:
        start = 0 if codes.shape[2] < window else codes.shape[2] - overlap
        length = min(window, frames - start)
        if not torch.equal(model.pattern(length).step, model.pattern(window).step[:, :length]):
            length = window  # steps depend on the length, as in `coarse-first`: it must be the one trained on
        numbers = uniforms[:, :, start : start + length]
        numbers = F.pad(numbers, (0, length - numbers.shape[2]), value=0.5)
        grown = generate(model, text, text_mask, frames=length, uniforms=numbers, prompt=codes[:, :, start:], **how)
        codes = torch.cat([codes[:, :, :start], grown], dim=2)
    return codes[:, :, :frames]


class Draw(Protocol):
    """How the tokens of one step are drawn: what an entry of a table `DECODINGS` in this folder has to be."""

    def __call__(
        self,
        model: LanguageModel,
        hidden: Tensor,
        standing: Tensor,
        codebooks: slice,
        uniform: Tensor,
        *,
        guidance_scale: float,
        top_k: int,
        temperature: float,
    ) -> Tensor:
        """Tokens `[B, n]` of n neighbouring codebooks.

        Args:
            model: the language model.
            hidden: the transformer's output at this step `[B, width]`; with guidance `[2 B, width]`, null texts last.
            standing: tokens of this step that are known already `[B, K]`, the special one elsewhere.
            codebooks: which n of them are drawn.
            uniform: `[B, n]`, in [0, 1), which decide the tokens.
            guidance_scale: 1 means that there is no null text.
            top_k: as in `generate`.
            temperature: as in `generate`.
        """


def factorised(
    model: LanguageModel,
    hidden: Tensor,
    standing: Tensor,
    codebooks: slice,
    uniform: Tensor,
    *,
    guidance_scale: float,
    top_k: int,
    temperature: float,
) -> Tensor:
    """Each token by itself, given all that the model is given: without depth heads, the product of marginals."""
    logits = model.logits(hidden, codebooks, standing)
    if guidance_scale != 1:
        conditional, null = logits.chunk(2)
        logits = guide(conditional, null, guidance_scale)
    return sample(logits, uniform, top_k=top_k, temperature=temperature)


DECODINGS: dict[str, Draw] = {"factorised": factorised}


def guide(conditional: Tensor, null: Tensor, scale: float) -> Tensor:
    """Logits under guidance: null + scale (conditional - null)."""
    return torch.lerp(null, conditional, scale)


def sample(logits: Tensor, uniform: Tensor, *, top_k: int, temperature: float) -> Tensor:
    """Tokens from the `top_k` likeliest, by inversion: the first whose cumulative probability exceeds `uniform`.

    A given number picks its token by itself, so that neither the batch nor the order of clips matters.

    Args:
        logits: `[..., C]`.
        uniform: `[...]`, in [0, 1).
        top_k: at least 1; C or more keeps every token.
        temperature: above 0.
    """
    if top_k == 1:
        return logits.argmax(dim=-1)
    if top_k < logits.shape[-1]:
        # The k-th largest by selection: an eighth of the time of a sorted top-k.
        threshold = logits.kthvalue(logits.shape[-1] - top_k + 1, dim=-1, keepdim=True).values
        logits = logits.masked_fill(logits < threshold, -torch.inf)
    cumulative = (logits / temperature).softmax(dim=-1).cumsum(dim=-1)
    # The last sum is 1 up to rounding; scaling by it keeps every number within the possible tokens.
    wanted = uniform[..., None] * cumulative[..., -1:]
    return torch.searchsorted(cumulative, wanted, right=True)[..., 0].clamp_max(logits.shape[-1] - 1)


def clip_uniforms(clip_ids: Sequence[str], seed: int, codebooks: int, frames: int) -> Tensor:
    """Numbers `[B, K, T]` in [0, 1), drawn from the seed and each clip's name alone."""
    drawn = [
        np.random.default_rng([seed, *clip.encode()]).random((codebooks, frames), dtype=np.float32) for clip in clip_ids
    ]
    return torch.from_numpy(np.stack(drawn))


def model_parser(description: str) -> argparse.ArgumentParser:
    """As `job.parser`, with the folders of a language model and of its codec: `--lm`, `--codec`."""
    parser = job.parser(description)
    parser.add_argument("--lm", type=Path, required=True, help="folder of the language model")
    parser.add_argument("--codec", type=Path, required=True, help="folder of its codec")
    return parser


def load_models(args: argparse.Namespace, device: torch.device) -> tuple[LanguageModel, codecs.Coder]:
    """The language model and the codec that the arguments of `model_parser` name, ready to sample on `device`.

    Raises:
        ValueError: a folder holds no such model, or the language model is of another codec's tokens.
    """
    set_matmul_precision(device)
    model, codec = language_model.load(args.lm).to(device), codecs.load(args.codec, device)
    if any(getattr(model.shape, name) != codec.configuration[name] for name in ("codebooks", "codebook_size")):
        raise ValueError(f"{args.lm} was not trained on tokens of {args.codec}: their codebooks differ")
    return model, codec


def main() -> None:
    """Generates audio for the captions that every system is scored on."""
    parser = model_parser("Generate music with a language model.")
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True, help="folder of text states")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    device = job.prepare(args)
    settings = params.section(args.params, "generation", params.Generation)
    model, codec = load_models(args, device)
    text = conditioning.load(args.text)
    clips = manifest.evaluation_rows(manifest.read(args.manifest), settings.clips)
    captions = text.rows(clips["caption_0"].tolist())
    frames = model.shape.frames

    # As many parts of it as tell all systems of a study apart, those after some of a model's training too.
    name = "/".join(args.out.parts[-4:]).strip("/").removeprefix("results/")
    inputs = [settings.model_dump(mode="json"), clips["clip_id"].tolist(), clips["caption_0"].tolist()]
    inputs += [provenance.file_digest(folder / "model.safetensors") for folder in (args.lm, args.codec)]
    folder = Path("checkpoints") / name / provenance.digest(inputs)[:16]
    parts = [folder / f"{start:06}.npz" for start in range(0, len(clips), settings.batch_size)]
    with job.Progress(name, len(clips), "clip", done=sum(p.exists() for p in parts) * settings.batch_size) as progress:
        for number, part in enumerate(parts):
            if part.exists():
                continue
            rows = slice(number * settings.batch_size, (number + 1) * settings.batch_size)
            states, mask = (x.to(device) for x in text.batch(captions[rows]))
            names = clips["clip_id"].astype(str).tolist()[rows]
            uniforms = clip_uniforms(names, settings.seed, model.shape.codebooks, frames).to(device)
            with stopwatch(device) as sampled:
                codes = generate(
                    model,
                    states,
                    mask,
                    frames=frames,
                    uniforms=uniforms,
                    guidance_scale=settings.guidance_scale,
                    top_k=settings.top_k,
                    temperature=settings.temperature,
                    decoding=settings.decoding,
                )
            with stopwatch(device) as decoded:
                audio = torch.cat([codec.decode(chunk) for chunk in codes.split(codecs.AT_ONCE)])
            with atomic(part) as temporary:
                np.savez(
                    temporary,
                    tokens=codes.cpu().numpy().astype(np.uint16),
                    audio=to_int16(audio.cpu().numpy()),
                    seconds=[*sampled, *decoded],
                )
            progress.update(min(rows.stop, len(clips)))
    done = [dict(np.load(part, allow_pickle=False)) for part in parts]
    write_array(args.out / "tokens.npy", np.concatenate([part["tokens"] for part in done]))
    write_array(args.out / "audio.npy", np.concatenate([part["audio"] for part in done]))
    sizes = [len(part["tokens"]) for part in done]
    write_json(
        args.out / "timing.json",
        {
            **timing(model, frames / codec.frame_rate, sizes, [part["seconds"] for part in done]),
            "batch_size": settings.batch_size,
            "threads": torch.get_num_threads(),
            "provenance": provenance.record(
                {"generation": settings.model_dump(mode="json")}, seed=settings.seed, device=device.type
            ),
        },
    )
    shutil.rmtree(folder.parent)


def timing(
    model: LanguageModel, clip_seconds: float, sizes: Sequence[int], seconds: Sequence[np.ndarray]
) -> dict[str, float | list[float]]:
    """Steps and speed of the language model, and separately the time of decoding, which the speed leaves out.

    Every batch is one repeat: `a_clip` and `processor_a_clip` hold its seconds per clip. Processor time stays
    comparable on a busy machine; values not named `processor` are wall-clock time.

    Args:
        model: the language model.
        clip_seconds: length of a clip in seconds.
        sizes: clips of each batch.
        seconds: per batch, wall-clock and processor seconds of sampling, then of decoding.
    """
    frames, clips, batches = model.shape.frames, sum(sizes), np.array(sizes)
    sampled, sampled_cpu, decoded, decoded_cpu = np.array(seconds).T
    return {
        "steps": model.pattern(frames).steps,
        "clips": clips,
        "seconds": float(sampled.sum()),
        "processor_seconds": float(sampled_cpu.sum()),
        "frames_per_second": float(clips * frames / sampled.sum()),
        "real_time_factor": float(clips * clip_seconds / sampled.sum()),
        "a_clip": (sampled / batches).tolist(),
        "processor_a_clip": (sampled_cpu / batches).tolist(),
        "decoding_seconds": float(decoded.sum()),
        "decoding_processor_seconds": float(decoded_cpu.sum()),
    }


@contextmanager
def stopwatch(device: torch.device) -> Iterator[list[float]]:
    """A list that holds, after the block, its seconds by the clock and of the processor."""
    started = (time.perf_counter(), time.process_time())
    measured: list[float] = []
    yield measured
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    measured += [time.perf_counter() - started[0], time.process_time() - started[1]]


if __name__ == "__main__":
    job.run(main)
