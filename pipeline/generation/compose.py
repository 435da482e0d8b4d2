"""Music for any text, of any duration, with a trained or imported language model; it may continue a recording.

    python -m pipeline.generation.compose --lm results/lm/delay/mmd-seed0-lm0 --codec results/codec/mmd-seed0 \
        --caption "slow solo piano" --caption "loud fast drums" --seconds 30 --out composed
    python -m pipeline.generation.compose --lm imported/lm --codec imported/codec --encoder imported/text_encoder \
        --caption "slow solo piano" --prompt beginning.wav --seconds 40 --out composed
    python -m pipeline.generation.compose --lm imported/lm --codec imported/codec --encoder imported/text_encoder \
        --manifest results/corpus/manifest.parquet --seconds 10 --out composed

The last plays the captions on which the study's own models are scored; `evaluation.systems` then takes the folder, and
the `captions.csv` in it, as a system of its own.
"""

from pathlib import Path

import pandas as pd
import torch

from pipeline import audio, job, params
from pipeline import manifest as manifests
from pipeline.fetch import minilm_folder
from pipeline.files import atomic
from pipeline.generation import sampling
from pipeline.lm import conditioning

OVERLAP = 0.4  # of the length of training, between windows: MusicGen's 12 of 30 s


def main() -> None:
    """Writes one WAV file a caption."""
    parser = sampling.model_parser("Compose music with a language model.")
    texts = parser.add_mutually_exclusive_group(required=True)
    texts.add_argument("--caption", action="append", help="text of one piece; may be repeated")
    texts.add_argument("--manifest", type=Path, help="manifest.parquet, for the captions of the study's evaluation")
    parser.add_argument("--encoder", help="folder or hub name of the text encoder (default: conditioner.encoder)")
    parser.add_argument("--downloads", type=Path, default=Path(".cache/downloads"), help="where minilm is kept")
    parser.add_argument("--seconds", type=float, help="duration, that of the prompt included (default: as in training)")
    parser.add_argument("--prompt", type=Path, help="recording that every piece continues")
    parser.add_argument("--out", type=Path, required=True, help="folder of the WAV files")
    args = parser.parse_args()
    device = job.prepare(args)
    how = params.section(args.params, "generation", params.Generation)
    conditioner = params.section(args.params, "conditioner", params.Conditioner)
    model, codec = sampling.load_models(args, device)
    encoder = args.encoder or conditioner.encoder
    source = minilm_folder(args.downloads) if encoder == conditioning.MINILM else encoder
    pieces = _pieces(args.caption, args.manifest, how.clips)
    text = conditioning.embed(list(dict.fromkeys(pieces["caption"])), source, conditioner.max_tokens)
    if text.dimension != model.shape.text_dimension:
        raise ValueError(
            f"{encoder} gives states of {text.dimension} numbers and {args.lm} reads {model.shape.text_dimension}: "
            "give --encoder the one that it was trained with"
        )
    frames = model.shape.frames if args.seconds is None else round(args.seconds * codec.frame_rate)
    prompt = None
    if args.prompt:
        heard = audio.read(args.prompt)
        waveform = audio.resample(heard.waveform, heard.rate, codec.sample_rate)
        prompt = codec.encode(torch.from_numpy(waveform)[None].to(device))
        if prompt.shape[2] >= frames:
            raise ValueError(f"{args.prompt} is as long as what is to come of it: raise --seconds")
    with job.Progress(f"compose/{args.out.name}", len(pieces), "piece") as progress:
        for start in range(0, len(pieces), how.batch_size):
            some = pieces.iloc[start : start + how.batch_size]
            numbers = sampling.clip_uniforms(some["clip_id"].tolist(), how.seed, model.shape.codebooks, frames)
            codes = sampling.extend(
                model,
                *(x.to(device) for x in text.batch(text.rows(some["caption"].tolist()))),
                frames=frames,
                overlap=int(OVERLAP * model.shape.frames),
                uniforms=numbers.to(device),
                guidance_scale=how.guidance_scale,
                top_k=how.top_k,
                temperature=how.temperature,
                decoding=how.decoding,
                prompt=None if prompt is None else prompt.expand(len(some), -1, -1),
            )
            for file, waveform in zip(some["file"], codec.decode(codes).cpu().numpy(), strict=True):
                audio.write_wav(args.out / file, waveform, codec.sample_rate)
            progress.update(start + len(some))
    if args.manifest:
        with atomic(args.out / "captions.csv") as temporary:
            pieces[["file", "clip_id"]].to_csv(temporary, index=False)


def _pieces(captions: list[str] | None, manifest: Path | None, clips: int) -> pd.DataFrame:
    """Caption, clip_id (which decides the random numbers) and file of each piece: those given, or the evaluation's.

    A caption that is given twice has two clip_ids, and so gets two pieces of music.
    """
    if manifest is None:
        pieces = pd.DataFrame({"caption": captions})
        occurrence = pieces.groupby("caption").cumcount().astype(str)
        pieces = pieces.assign(clip_id=occurrence + ":" + pieces["caption"])
    else:
        rows = manifests.evaluation_rows(manifests.read(manifest), clips)
        pieces = pd.DataFrame({"caption": rows["caption_0"].tolist(), "clip_id": rows["clip_id"].astype(str).tolist()})
    return pieces.assign(file=[f"{number:04}.wav" for number in range(len(pieces))])


if __name__ == "__main__":
    job.run(main)
