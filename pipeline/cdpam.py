"""CDPAM, an encoder of what listeners tell apart (Manocha et al. 2021, arXiv 2102.05109), with its published weights.

fadtk's statistics of FMA-Pop hold its acoustic embeddings, so that distances to a public corpus need no model hub.
"""

import pickle
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor, nn

SAMPLE_RATE = 22_050  # Hz
LAYERS = 16
SHRINKS = 4  # every fourth layer keeps every second frame
SHORTEST = 256  # samples of a last second that is not whole: 16 frames of the last layer
INT16 = 32_768  # its waveforms have the values of 16-bit samples


class Cdpam(nn.Module):
    """The acoustic half of the encoder, in evaluation only.

    Differs from cdpam's own code in what it leaves out: frames that the next layer drops, and the content half.
    """

    def __init__(self, variables: dict[str, Tensor]) -> None:
        """`variables` as the checkpoint names them."""
        super().__init__()
        for layer in range(LAYERS):
            weight, bias = (variables[f"base_encoder.encoder.{layer}.{name}"] for name in ("weight", "bias"))
            gamma, beta, mean, variance = (
                variables[f"base_encoder.ebatch.{layer}.{name}"]
                for name in ("weight", "bias", "running_mean", "running_var")
            )
            scale = gamma / (variance + 1e-5).sqrt()
            kept = len(weight) // (2 if layer == LAYERS - 1 else 1)
            self.register_buffer(f"weight_{layer}", (weight * scale[:, None, None])[:kept].contiguous())
            self.register_buffer(f"bias_{layer}", ((bias - mean) * scale + beta)[:kept].contiguous())

    @torch.inference_mode()
    def forward(self, waveforms: Tensor) -> Tensor:
        """Acoustic embeddings of unit length of `waveforms` `[B, T]` at 22.05 kHz, full scale 1 -> `[B, 512]`."""
        x = (waveforms * INT16).round()[:, None]
        for layer in range(LAYERS):
            weight, bias = self.get_buffer(f"weight_{layer}"), self.get_buffer(f"bias_{layer}")
            stride = 2 if (layer + 1) % SHRINKS == 0 else 1
            x = F.leaky_relu(F.conv1d(x, weight, bias, stride=stride, padding=weight.shape[-1] // 2), 0.1)
        return F.normalize(x.mean(-1), dim=1)

    def embed(self, waveforms: Tensor) -> Tensor:
        """`waveforms` `[B, T]` -> `[B, n, 512]`, one embedding a second and one of what is left, as fadtk takes them.

        Raises:
            ValueError: not `[B, T]`, too short, NaN or infinite.
        """
        if waveforms.ndim != 2 or waveforms.shape[1] < SHORTEST:
            raise ValueError(f"waveforms must be [B, T] with T of at least {SHORTEST}, got {tuple(waveforms.shape)}")
        if not waveforms.isfinite().all():
            raise ValueError("waveforms hold NaN or infinity")
        seconds = [part for part in waveforms.split(SAMPLE_RATE, 1) if part.shape[1] >= SHORTEST]
        # On a CPU, more at a time falls out of the cache.
        at_once = 1 if waveforms.device.type == "cpu" else 64
        return torch.stack([torch.cat([self(rows) for rows in part.split(at_once)]) for part in seconds], 1)


def load(path: Path) -> Cdpam:
    """The encoder with the weights of cdpam's package (`pipeline.fetch.cdpam_checkpoint`)."""
    # An old pickle with optimizer state; nothing but tensors and plain containers may come out of it.
    checkpoint = torch.load(path, "cpu", pickle_module=_TENSORS, weights_only=False)
    return Cdpam(checkpoint["state"]).eval()


def resample(waveform: Any, rate: int, target: int) -> Any:
    """`waveform` `[T]` from `rate` to `target` Hz with fadtk's Kaiser window; soxr's scores differ by up to 3 %."""
    if rate == target:
        return waveform
    return torchaudio.functional.resample(
        torch.from_numpy(waveform),
        rate,
        target,
        lowpass_filter_width=64,
        rolloff=0.9475937167399596,
        resampling_method="sinc_interp_kaiser",
        beta=14.769656459379492,
    ).numpy()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return torch._utils._rebuild_tensor_v2
        if module == "torch" and name.endswith("Storage"):
            return getattr(torch, name)
        raise pickle.UnpicklingError(f"the checkpoint asks for {module}.{name}, which no checkpoint needs")


_TENSORS = SimpleNamespace(
    __name__="tensors", Unpickler=_Unpickler, load=lambda file, **options: _Unpickler(file, **options).load()
)
