"""The same captions' clips of every system, compressed for a page: what `pipeline.report.page` plays.

    python -m pipeline.report.gallery --study runs/smoke --params '{"study": ..., "evaluation": ..., ...}' \
        --out runs/smoke/results/gallery

A recording whose licence does not let everyone pass it on is left out, and so are its reconstructions.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile
import torch
from matplotlib import colormaps
from PIL import Image

from pipeline import audio, files, job, manifest, params
from pipeline import study as place
from pipeline.codec.spectral import LOG_FLOOR, mel
from pipeline.evaluation.clips import clips_of
from pipeline.study import Study

# Licences that let anyone pass music on, whole or in part, under the same licence and with its authors named.
FREE = re.compile(r"(CC0|CC-BY(-SA)?|GPL|LGPL)-?[\d.]*(-only|-or-later)?|public domain( \(.*\))?", re.IGNORECASE)
RATES = (8000, 12000, 16000, 24000, 48000)  # Hz, which Opus has
COMPRESSION = 0.85  # of soundfile's 0 to 1: 42 kbit/s of music at 16 kHz
LUFS = -18.0  # loudness of every clip, so that none sounds better for being louder
PEAKS = 300  # of a waveform that is drawn
WINDOW, BANDS, WIDTH, RANGE = 1024, 80, 400, 80.0  # samples, mels, pixels and dB of a spectrogram


def free(licence: str) -> bool:
    """Whether a licence, or one of several such as `CC-BY-SA-3.0 or GPL-2.0-or-later`, is one of `FREE`."""
    return any(FREE.fullmatch(part.strip()) for part in licence.split(" or "))


def chosen(rows: pd.DataFrame, clips: int) -> pd.DataFrame:
    """The scored clips that are shown: of different tracks, as far as there are, whose licence is free."""
    order = manifest.turns(rows).sort_values().index
    return rows.loc[[index for index in order if free(str(rows.loc[index, "licence"]))][:clips]]


def compress(clip: audio.Audio, path: Path) -> audio.Audio:
    """Writes a clip as Opus at one loudness and one of its rates, and returns it as it was written."""
    waveform = audio.to_float(clip.waveform) if clip.waveform.dtype == np.int16 else clip.waveform
    try:
        waveform = audio.loudness_normalize(waveform, clip.rate, LUFS)
    except ValueError:  # silent, not finite or shorter than what has a loudness
        waveform = np.zeros_like(waveform)
    rate = min((possible for possible in RATES if possible >= clip.rate), default=RATES[-1])
    written = audio.Audio(np.clip(audio.resample(waveform, clip.rate, rate), -1, 1), rate)
    with files.atomic(path) as temporary:
        soundfile.write(temporary, *written, format="OGG", subtype="OPUS", compression_level=COMPRESSION)
    return written


def peaks(waveform: np.ndarray) -> list[float]:
    """Largest magnitudes of `PEAKS` parts of a waveform."""
    parts = np.array_split(np.abs(waveform), PEAKS)
    return [round(float(part.max(initial=0)), 3) for part in parts]


def draw_spectrogram(clip: audio.Audio, path: Path) -> None:
    """Writes a clip's log-mel spectrogram as an image; its loudest point has the brightest colour."""
    samples = np.pad(clip.waveform, (0, max(WINDOW - len(clip.waveform), 0)))
    waveform = torch.from_numpy(samples)[None].float()
    levels = 20 * (mel(waveform, sample_rate=clip.rate, window=WINDOW, bins=BANDS)[0] + LOG_FLOOR).log10()
    shares = ((levels - levels.max() + RANGE) / RANGE).clamp(0, 1).flip(0).numpy()
    image = Image.fromarray((colormaps["magma"](shares)[..., :3] * 255).astype(np.uint8))
    with files.atomic(path) as temporary:
        image.resize((WIDTH, BANDS)).save(temporary, quality=60)


def main() -> None:
    """Writes each clip that is shown, its spectrogram, and `gallery.json`."""
    parser = job.parser("Compress clips of every system for the study's page.")
    parser.add_argument("--study", type=Path, default=Path(), help="the study's folder (default: this one)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the gallery")
    args = parser.parse_args()
    job.prepare(args)
    evaluation = params.section(args.params, "evaluation", params.Evaluation)
    study = Study(params.section(args.params, "study", params.Study), evaluation.systems, [])
    wanted = params.gallery_clips(args.params)
    clips = params.section(args.params, "generation", params.Generation).clips
    rate = params.section(args.params, "corpus", params.Corpus).sample_rate
    table = manifest.read(args.study / f"{place.CORPUS}/manifest.parquet")
    rows = manifest.evaluation_rows(table, clips)
    picked = chosen(rows, wanted)
    listed: list[dict[str, Any]] = [
        {
            "clip": str(row["clip_id"]),
            "caption": str(row["caption_0"]),
            "credit": {name: str(row[name]) for name in ("title", "artist", "collection", "licence", "source_file")},
            "sounds": [],
        }
        for _, row in picked.iterrows()
    ]
    systems = study.shown
    with job.Progress("gallery", len(systems), "system") as progress:
        for number, each in enumerate(systems):
            source = Path(study.audio(each.system))
            theirs = [Path(path) for path in study.theirs(each.system)[1:]]
            given = clips_of(
                each.system, args.study / source, table, clips, rate, args.study / theirs[0] if theirs else None
            )
            places = {str(name): index for index, name in enumerate(given.names["clip_id"])}
            for index, clip in enumerate(listed):
                if (at := places.get(clip["clip"])) is None:
                    continue  # made from another caption
                name = f"{index}-{number}"
                sound = compress(given.read(at), args.out / f"{name}.ogg")
                draw_spectrogram(sound, args.out / f"{name}.webp")
                about = {"file": name, "seconds": len(sound.waveform) / sound.rate, "peaks": peaks(sound.waveform)}
                clip["sounds"].append(each._asdict() | about)
            progress.update(number + 1)
    kept = {f"{sound['file']}{suffix}" for clip in listed for sound in clip["sounds"] for suffix in (".ogg", ".webp")}
    for path in [*args.out.glob("*.ogg"), *args.out.glob("*.webp")]:
        if path.name not in kept:
            path.unlink()
    files.write_json(
        args.out / "gallery.json", {"clips": listed, "free": len(chosen(rows, len(rows))), "of": len(rows)}
    )


if __name__ == "__main__":
    job.run(main)
