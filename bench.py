"""Benchmarks: time and memory of this project's parts against their rivals, as ratios of medians from one run.

    make bench                          # all
    python bench.py loss 2944     # one, of a size
    python bench.py codec
    python bench.py dependence 10000000   # at full size
    python bench.py scores 8      # with so many clips a side
    python bench.py cdpam 2       # with so many seconds of audio
    python bench.py generation 256 --threads 2     # one, of a width

Every measurement is a process of its own, and the sides take turns, so that neither a busy minute nor the other's
memory falls on one side alone.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

ROOT = Path(__file__).parent
PAPER = (0.1, 1.0, 5.0, 10.0, 20.0, 50.0)
CODEBOOKS, DIMENSION = 4, 128
CODEC_TURNS, CODEC_STEPS = 3, 12
SCORES_TURNS, SCORED = 3, 8  # clips of 10 s a side
CDPAM_TURNS, CDPAM_SECONDS = 3, 2
# As the rules set them: training frees and asks for the same big blocks every step.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**33)}
TURNS = {2944: 3, 11776: 1}  # of the loss, at the rows of one and of four of the paper's GPUs
DENSE_CLOSED_FORM = 6000  # rows up to which its K + 1 matrices a bandwidth fit a machine of 16 GiB
TARGET = {2944: 5, 11776: 8}
# Of dependence: codebooks, codes, frames of a clip and, where no size is given, in all; the rival's pairs are a sample.
STREAMS, CODES, CLIP, FRAMES, RIVALS_PAIRS = 16, 2048, 1000, 1_000_000, 3
# Language models, by width: heads, layers, codes, clips, steps, and how many times transformers' speed is wanted.
MODELS = {256: (4, 6, 256, 8, 250, 8.0), 1024: (16, 24, 2048, 1, 40, 1.5)}
GENERATION_TURNS, GENERATION_THREADS = 3, 2


def main() -> None:
    """Runs all benchmarks, or is the process of one measurement."""
    parser = argparse.ArgumentParser(description="Measure this project's parts against their rivals.")
    what = ["loss", "codec", "dependence", "scores", "cdpam", "generation"]
    parser.add_argument("what", nargs="?", choices=what, help="all, where it is left out")
    parser.add_argument(
        "size",
        nargs="?",
        type=int,
        help="rows of the loss, frames of dependence, clips of scores, seconds of cdpam, or width of generation",
    )
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, help="2 for generation and 1 for the others, where it is left out")
    arguments = parser.parse_args()
    threads = arguments.threads or 1
    if arguments.side:
        sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
        ones = {"loss": _one_loss, "codec": _one_codec, "dependence": _one_dependence, "scores": _one_scores}
        ones |= {"cdpam": _one_cdpam, "generation": _one_generation}
        with redirect_stdout(sys.stderr):  # packages print
            answer = ones[arguments.what](arguments.side, arguments.size or 0, threads)
        print(json.dumps(answer))
        return
    if arguments.what in (None, "codec"):
        _codec(threads)
    if arguments.what in (None, "dependence"):
        _dependence(arguments.size or FRAMES, threads)
    if arguments.what in (None, "scores"):
        _scores(arguments.size or SCORED, threads)
    if arguments.what in (None, "cdpam"):
        _cdpam(arguments.size or CDPAM_SECONDS, threads)
    if arguments.what in (None, "loss"):
        for size in [arguments.size] if arguments.size else TURNS:
            _loss(size, threads)
    if arguments.what in (None, "generation"):
        for width in [arguments.size] if arguments.size else MODELS:
            _generation(width, arguments.threads or GENERATION_THREADS)


def _turns(what: str, size: int, sides: dict[str, dict[str, str]], threads: int, turns: int) -> dict[str, dict]:
    """Medians of what each side measures, in turn; each side with additions to its environment."""
    found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for _ in range(turns):
        for side, environment in sides.items():
            command = [sys.executable, __file__, what, str(size), "--side", side, "--threads", str(threads)]
            answer = subprocess.run(
                command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ | environment
            )
            found[side].append(json.loads(answer.stdout))
    return {
        side: {key: statistics.median(turn[key] for turn in each) for key in each[0]} for side, each in found.items()
    }


def _codec(threads: int) -> None:
    """Training steps of SEANet, against the same network from transformers with plain losses, and of `stft`."""
    print(f"codec, the default study's networks and batch, no adversary, {threads} thread(s)", flush=True)
    sides = {"ours": KEEP_MEMORY, "transformers": {}, "transformers keeping memory": KEEP_MEMORY, "stft": KEEP_MEMORY}
    found = _turns("codec", 0, sides, threads, CODEC_TURNS)
    for side, values in found.items():
        print(f"  {side:28} {values['audio']:6.1f} s of audio a second")
    print(f"  stft against our SEANet: {found['stft']['audio'] / found['ours']['audio']:.2f}x")
    for theirs in ("transformers", "transformers keeping memory"):
        print(
            f"  ours against {theirs}: {found['ours']['audio'] / found[theirs]['audio']:.2f}x (wanted: 1.5x)",
            flush=True,
        )


def _one_codec(side: str, _: int, threads: int) -> dict[str, float]:
    """Seconds of audio trained a second, whole steps."""
    import torch
    import torchaudio
    import yaml

    from pipeline import params
    from pipeline.codec import model as codecs
    from pipeline.codec.spectral import mel_loss, soft_si_sdr
    from pipeline.exchange import encodec

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    warnings.filterwarnings("ignore", message="At least one mel filterbank")  # of the rival's
    whole = params.checked(params.Params, yaml.safe_load((ROOT / "params.yaml").read_text()), "params.yaml")
    settings, rate = whole.codec.of("stft" if side == "stft" else "seanet"), whole.corpus.sample_rate
    training = settings.training
    samples = round(training.segment_seconds * rate)
    waveform = 0.1 * torch.randn(training.batch_size, samples)
    if side != "stft":
        # transformers cannot do without recurrent layers, nor with a norm of the latent.
        sizes = settings.sizes.model_copy(update={"lstm_layers": 1})
        settings = settings.model_copy(update={"sizes": sizes, "latent_norm": False})
    codec = codecs.Codec(codecs.configuration(settings, rate, "residual"))
    if side in ("ours", "stft"):
        codec.architecture.start(codec.encoder, codec.decoder, waveform)
        windows = training.mel_windows[-training.mel_windows_a_step :]
        codec.quantizer.codebooks.normal_()
        optimizer = torch.optim.Adam(codec.parameters(), lr=1e-4, betas=training.betas, fused=True)

        def step() -> None:
            latent = codec.latent(waveform)
            quantized = codec.quantizer(latent)
            output = codec.synthesise(quantized.latent)
            mels = mel_loss(output, waveform, sample_rate=rate, windows=windows, bins=training.mel_bins)
            loss = 10 * (output - waveform).abs().mean() + mels - 0.1 * soft_si_sdr(output, waveform).mean()
            optimizer.zero_grad(set_to_none=True)
            (loss + quantized.commitment).backward()
            torch.nn.utils.clip_grad_norm_(codec.parameters(), training.gradient_clip)
            optimizer.step()
            codec.quantizer.update(latent.detach(), decay=0.99, dead_share=0.2, generator=torch.Generator())
    else:
        model = encodec.to_transformers(codec).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, betas=training.betas)
        mels = [
            torchaudio.transforms.MelSpectrogram(
                rate, window, hop_length=window // 4, n_mels=min(training.mel_bins, window // 4), power=1.0
            )
            for window in training.mel_windows
        ]

        def step() -> None:
            latent = model.encoder(waveform[:, None])
            with torch.no_grad():
                quantized = model.quantizer.decode(model.quantizer.encode(latent, None))
            commitment = (latent - quantized).square().mean()
            output = model.decoder(latent + (quantized - latent).detach())[:, 0]
            loss = 10 * (output - waveform).abs().mean() + commitment
            for mel in mels:
                ours, theirs = mel(output), mel(waveform)
                loss = (
                    loss + (ours - theirs).abs().mean() + ((ours + 1e-5).log() - (theirs + 1e-5).log()).square().mean()
                )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), training.gradient_clip)
            optimizer.step()

    for _ in range(2):
        step()
    seconds = []
    for _ in range(CODEC_STEPS):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    return {"audio": training.batch_size * training.segment_seconds / statistics.median(seconds)}


def _scores(clips: int, threads: int) -> None:
    """From two folders of clips to their distance, against frechet-audio-distance, on one network."""
    print(f"scores, 2 x {clips} clips of 10 s, EnCodec's encoder with random weights, {threads} thread(s)", flush=True)
    rival = "frechet-audio-distance"
    sides = {"ours": KEEP_MEMORY, rival: {}, f"{rival} keeping memory": KEEP_MEMORY}
    found = _turns("scores", clips, sides, threads, SCORES_TURNS)
    for side, values in found.items():
        print(f"  {side:38} {values['seconds']:6.2f} s, distance {values['value']:.6f}")
    for theirs in list(sides)[1:]:
        ratio = found[theirs]["seconds"] / found["ours"]["seconds"]
        print(f"  ours against {theirs}: {ratio:.2f}x the speed (wanted: 1x)")
    print(f"  a second time, from the cache: {found[rival]['seconds'] / found['ours']['again']:.0f}x", flush=True)


def _one_scores(side: str, clips: int, threads: int) -> dict[str, float]:
    """Seconds from files to the distance, the network being loaded."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # laion-clap asks a hub at import
    import fake_hub
    import numpy as np
    import soundfile
    import torch
    from frechet_audio_distance import FrechetAudioDistance

    from pipeline import audio
    from pipeline.evaluation import embedders
    from pipeline.evaluation.embed import embed_clips
    from pipeline.evaluation.frechet import Gaussian, frechet_distance

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    rate, generator = 24_000, np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        fake_hub.encodec(folder)
        for name, drift in (("a", 0.0), ("b", 0.01)):
            (folder / name).mkdir()
            for index in range(clips):
                white = generator.normal(size=10 * rate)
                wave = white + drift * np.cumsum(white)
                soundfile.write(folder / name / f"{index}.wav", 0.1 * wave / np.abs(wave).max(), rate)
        if side == "ours":
            cpu = torch.device("cpu")
            embedder = embedders.load("encodec", "", folder, cpu)

            def score() -> float:
                sides = []
                for name in ("a", "b"):
                    read = [audio.read(path) for path in sorted((folder / name).iterdir())]
                    x = embed_clips(embedder, read, 10, folder / "cache")
                    sides.append(Gaussian.fitted(x.reshape(-1, x.shape[-1])))
                return frechet_distance(*sides)
        else:
            scorer = FrechetAudioDistance(ckpt_dir=str(folder), model_name="encodec", sample_rate=rate)

            def score() -> float:
                return float(scorer.score(str(folder / "a"), str(folder / "b")))

        found: dict[str, float] = {}
        for key in ("seconds", "again"):
            started = time.perf_counter()
            found["value"] = score()
            found[key] = time.perf_counter() - started
            if side != "ours":
                break
    return found


def _cdpam(seconds: int, threads: int) -> None:
    """CDPAM's acoustic encoder with its convolutions by short transforms, against torch's."""
    print(f"cdpam, {seconds} s of audio, random weights, {threads} thread(s)", flush=True)
    found = _turns("cdpam", seconds, dict.fromkeys(("ours", "conv1d"), KEEP_MEMORY), threads, CDPAM_TURNS)
    for side, values in found.items():
        print(f"  {side:28} {values['seconds']:6.3f} s a second of audio, norm {values['norm']:.7f}")
    print(f"  ours against conv1d: {found['conv1d']['seconds'] / found['ours']['seconds']:.2f}x", flush=True)


def _one_cdpam(side: str, seconds: int, threads: int) -> dict[str, float]:
    """Processor seconds a second of audio, and a number that both sides must agree on."""
    import torch
    from torch import nn

    from pipeline.pretrained import cdpam

    class Plain(nn.Conv1d):
        def __init__(self, weight: torch.Tensor, bias: torch.Tensor, stride: int) -> None:
            outputs, inputs, kernel = weight.shape
            super().__init__(inputs, outputs, kernel, stride, padding=kernel // 2)
            self.weight.data, self.bias.data = weight, bias

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.transpose(1, 2)).transpose(1, 2)

    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    variables, inputs = {}, 1
    for layer in range(cdpam.LAYERS):
        outputs = 64 * 2 ** ((layer + 1) // 4)
        weight = torch.randn(outputs, inputs, 15, generator=generator) * (15 * inputs) ** -0.5
        variables |= {f"base_encoder.encoder.{layer}.weight": weight}
        variables |= {f"base_encoder.encoder.{layer}.bias": torch.zeros(outputs)}
        norm = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
        variables |= {f"base_encoder.ebatch.{layer}.{name}": torch.full((outputs,), at) for name, at in norm.items()}
        inputs = outputs
    if side != "ours":
        cdpam.Convolution = Plain  # type: ignore[misc]
    network = cdpam.Cdpam(variables)
    waveform = 0.1 * torch.randn(1, seconds * cdpam.SAMPLE_RATE, generator=generator)
    network.embed(waveform)
    started = time.process_time()
    found = network.embed(waveform)
    return {"seconds": (time.process_time() - started) / seconds, "norm": float(found.sum(dim=2).norm())}


def _loss(rows: int, threads: int) -> None:
    """Forward and backward of both estimators in tiles, against the dense formulas with gradient checkpointing."""
    print(f"loss, N = {rows}, K = {CODEBOOKS}, D = {DIMENSION}, {threads} thread(s)", flush=True)
    sides = [f"{place} {estimator}" for place in ("tiled", "dense") for estimator in ("closed_form", "permutation")]
    if rows > DENSE_CLOSED_FORM:
        sides.remove("dense closed_form")
    median = _turns("loss", rows, {side: {} for side in sides}, threads, TURNS.get(rows, 3))
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


def _one_loss(side: str, rows: int, threads: int) -> dict[str, float]:
    """Seconds, peak memory beyond the streams and the libraries, and the value."""
    import dense
    import torch

    from pipeline.codec.independence import joint_rows, mmd, standardised

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


def _dependence(frames: int, threads: int) -> None:
    """All pairs of codebooks in one pass over memory-mapped tokens, against scikit-learn pair by pair."""
    pairs = STREAMS * (STREAMS - 1) // 2
    print(f"dependence, K = {STREAMS}, {CODES} codes, {frames:,} frames, {pairs} pairs, 1 thread", flush=True)
    found = _turns("dependence", frames, {"ours": {}, "scikit-learn": {}}, threads, 1)
    ours, theirs = found["ours"], found["scikit-learn"]
    apart = max(abs(ours[key] - theirs[key]) for key in theirs if key.startswith("pair"))
    print(f"  ours          {ours['seconds']:8.1f} s for all pairs, {ours['mebibytes']:.0f} MiB")
    print(
        f"  scikit-learn  {theirs['seconds']:8.1f} s for {RIVALS_PAIRS} of them, taken {pairs / RIVALS_PAIRS:g} times"
    )
    faster = theirs["seconds"] * pairs / RIVALS_PAIRS / ours["seconds"]
    print(f"  {faster:.0f}x the speed (wanted: 10x), values {apart:.0e} bits apart (wanted: 1e-9)", flush=True)


def _one_dependence(side: str, frames: int, _: int) -> dict[str, float]:
    """Seconds, peak memory beyond the libraries, and the first pairs' plug-in mutual information in bits."""
    import tempfile

    import numpy as np
    from sklearn.metrics import mutual_info_score

    from pipeline.dependence.information import histograms, information

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokens.npy"
        tokens = np.lib.format.open_memmap(path, "w+", np.uint16, (frames // CLIP, STREAMS, CLIP))
        generator = np.random.default_rng(0)
        for clip in tokens:
            fresh = generator.integers(CODES, size=clip.shape, dtype=np.uint16)
            clip[:] = np.where(generator.random(clip.shape) < 0.3, fresh[:1], fresh)
        tokens.flush()
        tokens = np.load(path, mmap_mode="r")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.perf_counter()
        if side == "ours":
            values = information(histograms(tokens, CODES), ["plug_in"])["plug_in"].mutual
        else:
            values = [
                mutual_info_score(tokens[:, 0].ravel(), tokens[:, k].ravel()) / np.log(2)
                for k in range(1, RIVALS_PAIRS + 1)
            ]
        seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {f"pair {k}": float(value) for k, value in enumerate(values[:RIVALS_PAIRS])}
    return {"seconds": seconds, "mebibytes": (peak - before) / 1024, **found}


def _generation(width: int, threads: int) -> None:
    """Greedy tokens under guidance, the delay pattern: the same weights here and as MusicgenForCausalLM."""
    heads, layers, codes, clips, steps, wanted = MODELS[width]
    print(
        f"generation, {width}/{heads}/{layers}, {CODEBOOKS} x {codes}, {clips} clips, {threads} thread(s)", flush=True
    )
    sides: dict[str, dict[str, str]] = {"ours": {}, "transformers": {}, "transformers, oneDNN as ours": {}}
    found = _turns("generation", width, sides, threads, GENERATION_TURNS)
    for side, values in found.items():
        print(
            f"  {side:28} {1000 * values['seconds'] / steps:7.1f} ms a step, {clips * steps / values['seconds']:7.1f} "
            f"frames a second, weights read at {values['bytes'] * steps / values['seconds'] / 1e9:5.1f} GB/s"
        )
    plain = statistics.median(values["plain"] for values in found.values())
    print(f"  a plain matrix-vector product reads a matrix of that size at {plain / 1e9:.1f} GB/s")
    least = 1000 * (found["ours"]["bytes"] + found["ours"]["cached"]) / plain
    aim = 1000 * found["transformers"]["seconds"] / steps / wanted
    print(f"  to read weights and caches so takes {least:.1f} ms a step; {wanted}x would be {aim:.1f}")
    for theirs in list(sides)[1:]:
        equal = "the same" if found["ours"]["tokens"] == found[theirs]["tokens"] else "OTHER"
        ratio, processor = (found[theirs][key] / found["ours"][key] for key in ("seconds", "processor"))
        said = f"{ratio:.1f}x (wanted: {wanted}x), by processor time {processor:.1f}x, {equal} tokens"
        print(f"  ours against {theirs}: {said}", flush=True)


def _one_generation(side: str, width: int, threads: int) -> dict[str, float]:
    """Seconds, a digest of the tokens, bytes that a step reads (weights, caches), and a plain product in a second."""
    import hashlib

    import torch
    from transformers import DynamicCache, EncoderDecoderCache

    from pipeline.exchange import musicgen
    from pipeline.generation import sampling
    from pipeline.lm.model import LanguageModel, ModelShape
    from pipeline.lm.transformer import set_matmul_precision

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    heads, layers, codes, clips, steps, _ = MODELS[width]
    frames = steps - CODEBOOKS + 1
    shape = ModelShape("delay", CODEBOOKS, codes, frames, 64, width, heads, layers, 4 * width, 0.0)
    model = LanguageModel(shape).eval()
    text, mask = torch.randn(clips, 20, 64), torch.ones(clips, 20, dtype=torch.bool)
    if side != "transformers":
        set_matmul_precision(torch.device("cpu"))
    if side == "ours":

        def run(frames: int) -> torch.Tensor:
            uniforms = torch.zeros(clips, CODEBOOKS, frames)
            how = {"guidance_scale": 3.0, "top_k": 1, "temperature": 1.0}
            return sampling.generate(model, text, mask, frames=frames, uniforms=uniforms, **how)
    else:
        theirs = musicgen.to_transformers(model)
        with torch.no_grad():
            states, visible = model.condition(text, mask)

        def run(frames: int) -> torch.Tensor:
            laid = theirs.generate(
                torch.full((clips * CODEBOOKS, 1), codes),
                attention_mask=torch.ones(clips, 1, dtype=torch.long),
                encoder_hidden_states=torch.cat([states, torch.zeros_like(states)]),
                encoder_attention_mask=torch.cat([visible, torch.zeros_like(visible)]).long(),
                past_key_values=EncoderDecoderCache(DynamicCache(), DynamicCache()),
                guidance_scale=3.0,
                do_sample=False,
                num_return_sequences=1,
                max_length=frames + CODEBOOKS,
            )
            return laid.view(clips, CODEBOOKS, frames)

    run(5)
    started, processor = time.perf_counter(), time.process_time()
    tokens = run(frames)
    seconds, processor = time.perf_counter() - started, time.process_time() - processor
    # A step reads all weights but the embeddings, and of the text's keys and values nothing.
    read = [p for name, p in model.named_parameters() if "embedding" not in name and "_kv" not in name]
    numbers = sum(p.numel() for p in read)
    # Keys and values of both halves of the guidance, on average: half the steps, and the text.
    cached = 4 * 2 * clips * layers * 2 * width * (steps // 2 + text.shape[1])
    matrix, vector = torch.randn(numbers // 1024, 1024), torch.randn(1024)
    matrix @ vector
    again = time.perf_counter()
    for _ in range(5):
        matrix @ vector
    plain = 5 * 4 * matrix.numel() / (time.perf_counter() - again)
    digest = int(hashlib.sha256(tokens.to(torch.int32).numpy().tobytes()).hexdigest()[:12], 16)
    return {
        "seconds": seconds,
        "processor": processor,
        "tokens": digest,
        "bytes": 4 * numbers,
        "cached": cached,
        "plain": plain,
    }


if __name__ == "__main__":
    main()
