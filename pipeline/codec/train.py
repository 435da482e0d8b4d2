"""Trains the codec: a trunk that codecs of one architecture, quantizer and seed share, then a branch for each loss.

Until `codec.independence.start` the loss is off, so those codecs are one and the same run up to there: it is
run once, saved whole, and continued once for every codec. Seeds, batches and budget of all branches are the same.

    python -m pipeline.codec.train trunk --architecture stft --quantizer residual --seed 0 --corpus results/corpus \
        --out results/codec/trunk/stft-residual-seed0
    python -m pipeline.codec.train branch --architecture stft --quantizer residual --seed 0 --corpus results/corpus \
        --trunk results/codec/trunk/stft-residual-seed0 --name mmd --out results/codec/mmd-seed0
"""

import math
import shutil
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

from pipeline import job, manifest, params, provenance
from pipeline.audio import to_float
from pipeline.codec import model as codecs
from pipeline.codec.balancer import Balancer
from pipeline.codec.discriminator import adversarial_loss, discriminator, discriminator_loss, feature_loss, halves
from pipeline.codec.independence import above_floor, mmd
from pipeline.codec.innovation import innovations
from pipeline.codec.quantizer import Quantized, streams
from pipeline.codec.spectral import cosine_distance, log_mel_distance, mel_loss, si_sdr, soft_si_sdr
from pipeline.files import atomic, read_array, write_json
from pipeline.training import History, load_run, resume_run, save_run

CHECKPOINT_SECONDS = 60.0
KMEANS_FRAMES = 16  # a code
START_BATCHES = 4  # whose segments a fresh network is prepared for
VALIDATIONS = 16  # a run
VALIDATION_CLIPS = 12
VALIDATION_ROWS = 1500  # of the closed form, which walks all pairs


class Run:
    """Everything a run needs to continue bit by bit: networks, optimizers, moving averages, step."""

    def __init__(
        self, settings: params.CodecSettings, sample_rate: int, quantizer: str, seed: int, device: torch.device
    ) -> None:
        """A run at step 0, its weights drawn from `seed`."""
        torch.manual_seed(seed)
        training = settings.training
        self.settings, self.seed, self.step = settings, seed, 0
        self.codec = codecs.Codec(codecs.configuration(settings, sample_rate, quantizer)).to(device)
        self.average = codecs.Codec(self.codec.configuration).to(device).eval().requires_grad_(False)
        self.average.load_state_dict(self.codec.state_dict())
        self.optimizer = optimizer(self.codec, training.learning_rate, training.betas, training.weight_decay)
        self.modules: dict[str, nn.Module] = {"codec": self.codec, "average": self.average}
        self.optimizers = {"optimizer": self.optimizer}
        if training.adversarial:
            # Drawn after the codec, whose first weights are thus the same with it as without.
            judge = training.discriminator
            self.modules["discriminator"] = discriminator(judge, sample_rate).to(device).requires_grad_(False)
            self.optimizers["discriminator_optimizer"] = optimizer(
                self.modules["discriminator"], judge.learning_rate, judge.betas, training.weight_decay
            )
        if training.balancer:
            self.modules["balancer"] = Balancer(training.output_weights, training.balancer_decay).to(device)

    def generator(self, purpose: int, step: int | None = None) -> torch.Generator:
        """Random numbers of a step (this one) and purpose, so that a continued run draws what a straight one does."""
        step = self.step if step is None else step
        return torch.Generator().manual_seed(((self.seed * 1_000_003 + step) * 7 + purpose) % 2**63)

    def save(self, path: Path, history: History, digest: str) -> None:
        """Writes the run as it stands."""
        save_run(path, self.modules, self.optimizers, step=self.step, history=history, digest=digest)

    def load(self, path: Path) -> None:
        """Continues from what `save` wrote; ValueError where that has a discriminator or a balancer and this not."""
        self.step = load_run(path, self.modules, self.optimizers).step

    def resume(self, path: Path, digest: str) -> History:
        """Continues from the checkpoint of this very run, if a killed job left one, and returns its history."""
        saved = resume_run(path, self.modules, self.optimizers, digest)
        self.step = saved.step if saved else self.step
        return saved.history if saved else []


def train(
    run: Run,
    clips: "Rows",
    validation: Tensor,
    independence: params.Independence,
    until: int,
    checkpoint: Path,
    digest: str,
) -> History:
    """Trains to step `until` and returns the history, one row a validation.

    Folder `checkpoint` keeps the run, which `digest` tells from others, every minute, and its snapshots.

    The independence loss gets a backward pass of its own after the other losses' gradient is clipped: every `every`-th
    step the last `every` batches are encoded again by the current encoder and one loss is taken over all their frames.
    Its quantizer pass leaves the codebooks' moving averages alone.
    """
    settings, training, macro = run.settings, run.settings.training, run.settings.independence
    warmup, quantize_from = training.step(training.warmup), training.step(training.quantize_from)
    adversary_from = training.step(training.adversary_from)
    device = validation.device
    encoder_parameters = list(run.codec.encoder.parameters())
    kept = snapshot_steps(settings)
    history = run.resume(checkpoint / "state.safetensors", digest)
    saved = time.monotonic()
    with job.Progress("/".join(checkpoint.parts[1:-1]) or checkpoint.name, until, done=run.step) as progress:
        while run.step < until:
            quantize = run.step >= quantize_from
            for group in run.optimizer.param_groups:
                group["lr"] = training.learning_rate * schedule(run.step, warmup, training.steps)
            waveform = batch(clips, run, run.step).to(device)
            if run.step == 0:
                first = torch.cat([batch(clips, run, step) for step in range(START_BATCHES)]).to(device)
                run.codec.architecture.start(run.codec.encoder, run.codec.decoder, first)
                run.average.load_state_dict(run.codec.state_dict())
            if run.step == quantize_from:
                initialise(run, clips, device)
            run.optimizer.zero_grad(set_to_none=True)

            latent = run.codec.latent(waveform)
            quantized = run.codec.quantizer(latent, kept_codebooks(run)) if quantize else None
            output = run.codec.synthesise(quantized.latent if quantized else latent)[:, : waveform.shape[1]]
            losses = reconstruction_losses(output, waveform, run)
            adversary = ramp(run.step, adversary_from, training.step(training.adversary_ramp))
            if training.adversarial and adversary > 0:
                losses |= adversarial_losses(output, waveform, run)
            loss = combined(losses, output, run, adversary)
            if quantized:
                losses["commitment"] = quantized.commitment
                loss = loss + training.commitment_weight * quantized.commitment
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(run.codec.parameters(), training.gradient_clip)
            losses["gradient_norm"] = norm

            weight = independence.weight * ramp(run.step, settings.loss_from, training.step(macro.ramp))
            if weight > 0 and (run.step + 1) % macro.every == 0:
                before = [p.grad.clone() for p in encoder_parameters]
                losses["mmd"] = independence_loss(run, [x.to(device) for x in macro_batch(clips, run)], independence)
                (weight * losses["mmd"]).backward()
                added = torch.stack([(p.grad - g).norm() for p, g in zip(encoder_parameters, before, strict=True)])
                rest = torch.stack([g.norm() for g in before])
                losses["gradient_ratio"] = added.norm() / rest.norm().clamp_min(1e-12)

            run.optimizer.step()
            if quantize:
                run.codec.quantizer.update(
                    latent.detach(),
                    decay=settings.codebook_decay,
                    dead_share=settings.dead_code_threshold,
                    generator=run.generator(2),
                )
            average(run, training.weight_ema)
            run.step += 1

            measured = {name: float(value.detach()) for name, value in losses.items()}
            if wrong := {name: value for name, value in measured.items() if not math.isfinite(value)}:
                remedy = f"lower codec.{settings.architecture}.training.learning_rate"
                raise job.JobError(f"training diverged at step {run.step}, {wrong}: {remedy}")
            if run.step % max(training.steps // VALIDATIONS, 1) == 0 or run.step == until:
                history.append({"step": run.step, **measured, **validate(run, validation, quantize)})
            progress.update(run.step, **measured)
            if quantize and run.step in kept:
                save_snapshot(run.average, checkpoint, run.step)
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                run.save(checkpoint / "state.safetensors", history, digest)
                saved = time.monotonic()
    return history


def snapshot_steps(settings: params.CodecSettings) -> list[int]:
    """Steps after which a codec's weights are kept: the last, half-way to it from the loss' start, half-way to that."""
    first, last = settings.loss_from, settings.training.steps
    return sorted({first + (last - first) // 2**halved for halved in range(settings.independence.snapshots)} - {first})


def schedule(step: int, warmup: int, steps: int) -> float:
    """Share of the learning rate: linear warm-up, then a cosine to 0 at the last step."""
    return min((step + 1) / max(warmup, 1), 0.5 * (1 + math.cos(math.pi * step / steps)))


def ramp(step: int, start: int, length: int) -> float:
    """Share of a loss' weight: 0 before `start`, then linear to 1 over `length` steps."""
    return min(max((step - start + 1) / max(length, 1), 0.0), 1.0) if step >= start else 0.0


def batch(clips: "Rows", run: Run, step: int) -> Tensor:
    """The training clips' random segments `[B, T]` of a step, full scale 1."""
    training = run.settings.training
    generator = run.generator(1, step)
    length = round(training.segment_seconds * run.codec.sample_rate)
    rows = torch.randint(len(clips), (training.batch_size,), generator=generator).tolist()
    starts = torch.randint(clips.shape[1] - length + 1, (training.batch_size,), generator=generator).tolist()
    return torch.from_numpy(to_float(np.stack([clips[r, s : s + length] for r, s in zip(rows, starts, strict=True)])))


def drawn(count: int, wanted: int, generator: torch.Generator) -> list[int]:
    """`wanted` of the numbers under `count`, in their order."""
    return sorted(torch.randperm(count, generator=generator)[:wanted].tolist())


def kept_codebooks(run: Run) -> Tensor | None:
    """How many codebooks each segment of this step is decoded from, `[B]`: all, or at random 1 to K (DAC, section 3.3).

    None, for all of every segment, where `codec.quantizer_dropout` is 0 or the codebooks have no order. The loss for
    independence sees all streams. Differs from DAC in the codebooks left out, which commit and learn nevertheless.
    """
    share, count = run.settings.quantizer_dropout, run.settings.training.batch_size
    if share == 0 or not run.codec.quantizer.ordered:
        return None
    generator = run.generator(0)
    fewer = torch.rand(count, generator=generator) < share
    some = torch.randint(1, run.settings.codebooks + 1, (count,), generator=generator)
    return torch.where(fewer, some, run.settings.codebooks).to(next(run.codec.parameters()).device)


def macro_batch(clips: "Rows", run: Run) -> list[Tensor]:
    """The last `every` batches `[B, T]`, this step's among them."""
    first = max(run.step + 1 - run.settings.independence.every, 0)
    return [batch(clips, run, step) for step in range(first, run.step + 1)]


def reconstruction_losses(output: Tensor, waveform: Tensor, run: Run) -> dict[str, Tensor]:
    """Losses in time, and the mel loss on windows drawn for this step, of waveforms `[B, T]`."""
    training = run.settings.training
    windows = drawn(len(training.mel_windows), training.mel_windows_a_step, run.generator(5))
    return {
        "l1": (output - waveform).abs().mean(),
        "si_sdr": soft_si_sdr(output, waveform).mean(),
        "cosine": cosine_distance(output, waveform).mean(),
        "mel": mel_loss(
            output,
            waveform,
            sample_rate=run.codec.sample_rate,
            windows=[training.mel_windows[i] for i in windows],
            bins=training.mel_bins,
        ),
    }


def adversarial_losses(output: Tensor, waveform: Tensor, run: Run) -> dict[str, Tensor]:
    """Updates the discriminator once, on windows drawn for this step, then takes the codec's two losses of `[B, T]`.

    Differs from EnCodec in the features of the real audio, which are those from before the update: asking for them once
    more would cost a fifth of the whole.
    """
    discriminator, optimizer = run.modules["discriminator"], run.optimizers["discriminator_optimizer"]
    settings = run.settings.training.discriminator
    scales = drawn(len(settings.windows), settings.windows_a_step, run.generator(6))
    discriminator.requires_grad_(True)
    optimizer.zero_grad(set_to_none=True)
    real, generated = halves(discriminator(torch.cat([waveform, output.detach()]), scales))
    loss = discriminator_loss(real, generated)
    loss.backward()
    optimizer.step()
    # The codec's losses reach the codec through it, and must leave no gradient in it.
    discriminator.requires_grad_(False)
    generated = discriminator(output, scales)
    return {
        "discriminator": loss,
        "adversarial": adversarial_loss(generated),
        "feature": feature_loss(real, generated, relative=settings.relative_features),
    }


def combined(losses: dict[str, Tensor], output: Tensor, run: Run, adversary: float) -> Tensor:
    """The losses of the decoder's output `[B, T]` as one to descend: their weighted sum, or the balancer's.

    `adversary` is the share of the discriminator's losses, of which 0 leaves them out.
    """
    minimised = {**losses, "si_sdr": -losses["si_sdr"]}
    if balancer := run.modules.get("balancer"):
        return balancer(minimised, output)
    shares = dict.fromkeys(params.ADVERSARIAL, adversary)
    weights = run.settings.training.output_weights
    weighted = [w * shares.get(name, 1.0) * minimised[name] for name, w in weights.items() if name in minimised]
    return sum(weighted[1:], weighted[0])


def independence_loss(run: Run, waveforms: list[Tensor], independence: params.Independence) -> Tensor:
    """The loss over a macro-batch of batches `[B, T]`, encoded by the current encoder."""
    macro = run.settings.independence
    encode = run.codec.latent
    if macro.checkpointed:
        encode = partial(recomputed, encode, use_reentrant=False)
    latent = torch.cat([encode(waveform) for waveform in waveforms])
    quantized: Quantized = run.codec.quantizer(latent)
    if independence.stream == "innovation":
        past = macro.innovation
        given = streams(quantized, "quantized")
        compared = innovations(given, frames=past.frames, ridges=past.ridge, through=past.through)
    else:
        compared = streams(quantized, independence.stream)
    return mmd(
        compared,
        delay=independence.delay,
        estimator=independence.estimator,
        bandwidths=macro.bandwidths,
        unit=macro.unit,
        generator=run.generator(3),
    ).loss


@torch.no_grad()
def initialise(run: Run, clips: "Rows", device: torch.device) -> None:
    """Start of the codebooks, k-means where they have one, on the batches to come."""
    latents: list[Tensor] = []
    while sum(z.shape[0] * z.shape[2] for z in latents) < KMEANS_FRAMES * run.settings.codebook_size:
        latents.append(run.codec.latent(batch(clips, run, run.step + len(latents)).to(device)))
    run.codec.quantizer.initialise(torch.cat(latents), run.settings.kmeans_iterations, run.generator(4))


@torch.no_grad()
def average(run: Run, decay: float) -> None:
    """Moves the average of the weights; the codebooks, averages already, are copied."""
    for target, source in zip(run.average.parameters(), run.codec.parameters(), strict=True):
        target.lerp_(source, 1 - decay)
    for copied, buffer in zip(run.average.buffers(), run.codec.buffers(), strict=True):
        copied.copy_(buffer)


@torch.no_grad()
def validate(run: Run, waveform: Tensor, quantize: bool) -> dict[str, float]:
    """Log-mel distance, SI-SDR, perplexities and both MMDs of the averaged weights on held-out clips `[B, T]`."""
    codec, macro = run.average, run.settings.independence
    latent = codec.latent(waveform)
    quantized = codec.quantizer(latent)
    output = codec.synthesise(quantized.latent if quantize else latent)[:, : waveform.shape[1]]
    result = {
        "validation_log_mel": float(log_mel_distance(output, waveform, sample_rate=codec.sample_rate).mean()),
        "validation_si_sdr": float(si_sdr(output, waveform).mean()),
        "latent_spread": float(latent.std(dim=(0, 2)).mean()),
    }
    if quantize:
        for k, used in enumerate(quantized.codes.transpose(0, 1)):
            share = torch.bincount(used.flatten(), minlength=run.settings.codebook_size).double()
            share /= share.sum()
            result[f"perplexity_{k}"] = float(torch.exp(-torch.special.xlogy(share, share).sum()))
        for name, delay in (("equal_time", False), ("delayed", True)):
            few = quantized.vectors[:, :, :, : max(VALIDATION_ROWS // len(waveform), run.settings.codebooks)]
            measured = above_floor(few, delay=delay, bandwidths=macro.bandwidths, unit=macro.unit)
            result[f"validation_mmd_{name}"] = measured
    return result


def save_snapshot(codec: codecs.Codec, folder: Path, step: int) -> None:
    """Keeps the codec's weights as they are after `step`, beside the checkpoint."""
    with atomic(folder / f"{step}.safetensors") as temporary:
        save_file({name: value.contiguous() for name, value in codec.state_dict().items()}, temporary)


def optimizer(module: nn.Module, rate: float, betas: tuple[float, float], decay: float) -> torch.optim.AdamW:
    """AdamW whose decay spares the gains, biases and magnitudes; with a decay of 0 it is EnCodec's Adam."""
    matrices = [p for p in module.parameters() if sum(size > 1 for size in p.shape) > 1]
    others = [p for p in module.parameters() if sum(size > 1 for size in p.shape) <= 1]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=betas, fused=True)


class Rows:
    """Rows of a memory-mapped array `[N, T]` that belong to one split, without copying them."""

    def __init__(self, array: np.ndarray, rows: np.ndarray) -> None:
        self.array, self.rows, self.shape = array, rows, (len(rows), array.shape[1])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: tuple[int, slice]) -> np.ndarray:
        row, samples = index
        return self.array[self.rows[row], samples]


def main() -> None:
    """Trains a trunk, or a branch of one."""
    parser = job.parser("Train the codec: the trunk of a seed, or one codec's branch of it.")
    parser.add_argument("part", choices=["trunk", "branch"])
    parser.add_argument("--architecture", choices=list(params.choices("ARCHITECTURES")), required=True)
    parser.add_argument("--quantizer", choices=list(params.choices("QUANTIZERS")), required=True)
    parser.add_argument("--name", help="codec of study.codecs, for a branch")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--trunk", type=Path, help="folder of the trunk, for a branch")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    device = job.prepare(arguments)
    settings = params.section(arguments.params, "codec", params.Codec).of(arguments.architecture)
    corpus = params.section(arguments.params, "corpus", params.Corpus)
    training = settings.training

    audio, whole = read_array(arguments.corpus / "audio.npy"), manifest.read(arguments.corpus / "manifest.parquet")
    rows = {split: manifest.of_split(whole, split)["row"].to_numpy() for split in ("train", "validation")}
    length = round(training.segment_seconds * corpus.sample_rate)
    if length > audio.shape[1]:
        raise ValueError(
            f"codec.{settings.architecture}.training.segment_seconds ({training.segment_seconds} s) is longer than the "
            f"corpus' clips ({audio.shape[1] / corpus.sample_rate} s)"
        )
    clips = Rows(audio, rows["train"])
    spread = np.linspace(0, len(rows["validation"]) - 1, min(VALIDATION_CLIPS, len(rows["validation"]))).round()
    validation = torch.from_numpy(to_float(audio[rows["validation"][spread.astype(int)]])).to(device)

    trunk = arguments.part == "trunk"
    if not trunk and not (arguments.trunk and arguments.name):
        raise ValueError("a branch needs --trunk, the folder of its trunk, and --name, its key in study.codecs")
    none = params.Independence(weight=0, delay=False, stream="quantized", estimator="closed_form")
    independence = none if trunk else _independence(arguments.params, arguments.name)
    run = Run(settings, corpus.sample_rate, arguments.quantizer, arguments.seed, device)
    description = {
        "part": arguments.part,
        "codec": settings.model_dump(mode="json"),
        "quantizer": arguments.quantizer,
        "independence": independence.model_dump(mode="json"),
        "inputs": [
            provenance.file_digest(arguments.corpus / "manifest.parquet"),
            provenance.source_digest(
                "pipeline.codec.train",
                params.choices("QUANTIZERS")[arguments.quantizer],
                params.choices("ARCHITECTURES")[settings.architecture],
            ),
        ],
    }
    if not trunk:
        run.load(arguments.trunk / "state.safetensors")
        if run.step != settings.loss_from:
            raise ValueError(
                f"{arguments.trunk} stands at step {run.step} and the loss starts at step {settings.loss_from}: "
                "train it anew"
            )
        description["inputs"].append(provenance.file_digest(arguments.trunk / "state.safetensors"))
    digest = provenance.digest(description)
    checkpoint = Path("checkpoints", "codec", *["trunk"] * trunk, arguments.out.name, digest[:12])
    started = time.monotonic()
    until = settings.loss_from if trunk else training.steps
    history = train(run, clips, validation, independence, until, checkpoint, digest)
    print(f"trained to step {run.step} in {time.monotonic() - started:.0f} s", flush=True)

    with atomic(arguments.out / "history.csv") as temporary:
        pd.DataFrame(history, columns=None if history else ["step"]).to_csv(temporary, index=False)
    origin = provenance.record(description, seed=arguments.seed, device=device.type)
    if trunk:
        run.save(arguments.out / "state.safetensors", history, digest)
        write_json(arguments.out / "state.json", origin)
    else:
        snapshots = {step: load_file(checkpoint / f"{step}.safetensors") for step in snapshot_steps(settings)}
        with atomic(arguments.out / "snapshots.safetensors") as temporary:
            save_file(
                {f"{step}.{name}": value for step, kept in snapshots.items() for name, value in kept.items()}, temporary
            )
        codecs.save(run.average, arguments.out, origin)
    shutil.rmtree(checkpoint.parent, ignore_errors=True)


def _independence(argument: str, name: str) -> params.Independence:
    """What `--params` says of codec `name`: a rule hands over its own loss alone, params.yaml has that of all."""
    if params.holds(argument, "loss"):
        return params.section(argument, "loss", params.Independence)
    study = params.section(argument, "study", params.Study)
    if name not in study.trained:
        raise params.ParamsError(f"--name {name}: study.codecs has {sorted(study.trained)}")
    return study.trained[name].loss


if __name__ == "__main__":
    job.run(main)
