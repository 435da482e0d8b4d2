"""A process that asks the embedders whose weights no package has, with random weights.

    HF_HOME=hub HF_HUB_OFFLINE=1 python tests/fake_hub.py weights vggish encodec pann clap-laion-music passt

Networks and loading are the packages' own, except VGGish's, whose code is in no package: a small network stands in for
it. It is a process of its own because packages read HF_HOME when they are imported. Prints what came out as JSON.
"""

import io
import json
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch

SECONDS = 3
TEXTS = ["A slow piano.", "Fast techno with drums."]
VGGISH = """
import torch

class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embeddings = torch.nn.Sequential(torch.nn.Linear(16, 128), torch.nn.ReLU())
        self.postprocess = True

    def forward(self, waveform, rate):
        frames = torch.from_numpy(waveform)[: len(waveform) // 15360 * 15360].reshape(-1, 16, 960)
        return self.embeddings(frames.square().mean(2))

def vggish(pretrained=True):
    torch.manual_seed(0)
    return Network()
"""


def main() -> None:
    """Makes the weights and asks the embedders named."""
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    _roberta(Path(os.environ["HF_HOME"]) / "hub")
    from frechet_audio_distance import FrechetAudioDistance

    from pipeline.evaluation import embedders
    from pipeline.evaluation.frechet import Gaussian, frechet_distance

    made = {"vggish": vggish, "encodec": encodec, "pann": pann, "clap-laion-music": clap, "passt": passt}
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        made[name](folder)
        embedder = embedders.load(name, "unused", folder, torch.device("cpu"))
        waveforms = 0.1 * torch.randn(2, SECONDS * embedder.sample_rate, generator=torch.Generator().manual_seed(1))
        together = embedder.embed(waveforms)
        found[name] = {
            "shape": list(together.shape),
            "finite": bool(together.isfinite().all()),
            "apart": float((together[0] - together[1]).abs().max()),
            "norm": float(together[0, 0].norm()),
        }
        found[name] |= _repeated(embedder)
        if embedder.text:
            both, second = embedder.text(TEXTS), embedder.text(TEXTS[1:])
            found[name] |= {
                "text": list(both.shape),
                "text norm": float(both[0].norm()),
                "text alone": float((both[1:] - second).abs().max()),
                "text apart": float((both[0] - both[1]).abs().max()),
            }
        if name == "clap-laion-music":
            long = 0.1 * torch.randn(2, round(11.5 * 48_000), generator=torch.Generator().manual_seed(2))
            both = embedder.embed(long)
            ends = [embedder.embed(long[:, :480_000]), embedder.embed(long[:, -480_000:])]
            found[name] |= {"windows": list(both.shape)}
            found[name] |= {"windows apart": float((both - torch.cat(ends, 1)).abs().max())}
        if name == "passt":
            found[name] |= _passt_beside_its_package(embedder, waveforms, folder)
        if name == "encodec":
            scorer = FrechetAudioDistance.__new__(FrechetAudioDistance)
            scorer.verbose = False
            sides = [np.tile(clip, (1, 1)).astype(np.float64) for clip in together.numpy()]
            moments = [value for side in sides for value in (side.mean(0), np.cov(side.T))]
            found[name]["theirs"] = float(scorer.calculate_frechet_distance(*moments))
            found[name]["ours"] = frechet_distance(*(Gaussian.fitted(side) for side in sides))
    print(json.dumps(found))


def _repeated(embedder: Any) -> dict[str, float]:
    """How far answers are apart when clips of 11.5 s are embedded twice, and when one of them is embedded alone."""
    samples = round(11.5 * embedder.sample_rate)
    waveforms = 0.1 * torch.randn(2, samples, generator=torch.Generator().manual_seed(3))
    first = embedder.embed(waveforms)
    np.random.seed(1)  # noqa: NPY002, which laion-clap draws from
    torch.manual_seed(1)
    again, alone = embedder.embed(waveforms), embedder.embed(waveforms[1:])
    return {"again": float((again - first).abs().max()), "alone": float((alone - first[1:]).abs().max())}


def vggish(folder: Path) -> None:
    """A stand-in for torchvggish, as torch.hub keeps it."""
    code = folder / "harritaylor_torchvggish_master" / "hubconf.py"
    code.parent.mkdir(parents=True, exist_ok=True)
    code.write_text(VGGISH)
    (folder / "checkpoints").mkdir(exist_ok=True)
    for name in ("vggish-10086976.pth", "vggish_pca_params-970ea276.pth"):
        torch.save({}, folder / "checkpoints" / name)


def encodec(folder: Path) -> None:
    """EnCodec at 24 kHz."""
    from encodec import EncodecModel

    model = EncodecModel._get_model([24.0], 24_000, 1, causal=True, model_norm="weight_norm", audio_normalize=False)
    (folder / "checkpoints").mkdir(exist_ok=True)
    torch.save(model.state_dict(), folder / "checkpoints" / "encodec_24khz-d7cc33bc.th")


def pann(folder: Path) -> None:
    """Cnn14 at 16 kHz."""
    from frechet_audio_distance.models.pann import Cnn14_16k

    model = Cnn14_16k(16_000, window_size=512, hop_size=160, mel_bins=64, fmin=50, fmax=8000, classes_num=527)
    torch.save({"model": model.state_dict()}, folder / "Cnn14_16k_mAP%3D0.438.pth")


def clap(folder: Path) -> None:
    """laion-clap's music model."""
    from laion_clap import CLAP_Module

    state = CLAP_Module(enable_fusion=False, amodel="HTSAT-base", device="cpu").model.state_dict()
    # As the published checkpoint has it: of several GPUs, and with a buffer that transformers has since dropped.
    state = {f"module.{name}": value for name, value in state.items()}
    state["module.text_branch.embeddings.position_ids"] = torch.arange(514)[None]
    torch.save({"epoch": 1, "state_dict": state}, folder / "music_audioset_epoch_15_esc_90.14.pt")


def passt(folder: Path) -> None:
    """PaSST, whose head would else be of zeros."""
    network = _passt()
    torch.nn.init.normal_(network.head[-1].weight)  # type: ignore[index, union-attr]  # of an untyped package
    torch.save(network.state_dict(), folder / "passt-s-f128-p16-s10-ap.476-swa.pt")


def _passt() -> torch.nn.Module:
    with redirect_stdout(io.StringIO()):  # it prints itself
        from hear21passt.models.passt import get_model

        return get_model("passt_s_swa_p16_128_ap476", pretrained=False)


def _passt_beside_its_package(embedder: Any, waveforms: torch.Tensor, folder: Path) -> dict[str, Any]:
    """Logits of clips, and how far they are from what the package's own model says; pieces of clips past 10 s."""
    from hear21passt import base

    network = _passt()
    network.load_state_dict(torch.load(folder / "passt-s-f128-p16-s10-ap.476-swa.pt", weights_only=True))
    loaded, base.get_model_passt = base.get_model_passt, lambda **_: network  # which would download
    with redirect_stdout(io.StringIO()), torch.inference_mode():
        theirs = base.get_basic_model(mode="logits").eval()(waveforms)
    base.get_model_passt = loaded
    logits = embedder.tags(embedder.embed(waveforms))
    long = waveforms[:1, : embedder.sample_rate].repeat(1, 11)
    return {
        "tags": list(logits.shape),
        "tags apart": float((logits[:, 0] - theirs).abs().max()),
        "pieces": [embedder.embed(long[:, : round(s * embedder.sample_rate)]).shape[1] for s in (10.4, 10.6)],
    }


def _roberta(hub: Path) -> None:
    """roberta-base with one layer, few embeddings, and a whole tokenizer that spells."""
    from safetensors.torch import save_file
    from transformers import RobertaConfig, RobertaModel

    commit = "0" * 40
    folder = hub / "models--roberta-base"
    files = folder / "snapshots" / commit
    files.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [256 + index for index in range(256 - len(printable))]
    words = ["<s>", "<pad>", "</s>", "<unk>", *map(chr, printable + others)]
    words += [f"unused{index}" for index in range(50_264 - len(words))] + ["<mask>"]
    (files / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (files / "merges.txt").write_text("#version: 0.2\n")
    configuration = RobertaConfig(
        vocab_size=300, hidden_size=768, num_hidden_layers=1, max_position_embeddings=514, type_vocab_size=1
    )
    configuration.save_pretrained(files)
    (files / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "RobertaTokenizer"}))
    model = RobertaModel(configuration)
    save_file(
        {f"roberta.{name}": value.contiguous() for name, value in model.state_dict().items()},
        files / "model.safetensors",
        {"format": "pt"},
    )


if __name__ == "__main__":
    main()
