"""Packed text states, their files, and MiniLM's states against the encoder run caption by caption."""

from pathlib import Path

import pytest
import torch
from text_encoders import small_t5

from pipeline import job
from pipeline.lm import conditioning
from pipeline.lm.conditioning import TextStates

MAX_TOKENS = 48


def text_states() -> TextStates:
    generator = torch.Generator().manual_seed(0)
    return TextStates(torch.randn(6, 4, generator=generator).half(), torch.tensor([0, 3, 4, 6]), ["a", "b", "c"])


def test_a_batch_is_padded_and_masked() -> None:
    text = text_states()
    states, mask = text.batch(text.rows(["c", "a"]))
    assert mask.tolist() == [[True, True, False], [True, True, True]]
    assert torch.equal(states[0, :2], text.states[4:].float())
    assert torch.equal(states[1], text.states[:3].float())
    assert not states[0, 2].any()


def test_files_round_trip(tmp_path: Path) -> None:
    text = text_states()
    conditioning.save(text, tmp_path)
    loaded = conditioning.load(tmp_path)
    assert loaded.index == text.index
    assert torch.equal(loaded.states, text.states)
    assert torch.equal(loaded.offsets, text.offsets)


def test_an_unknown_caption_is_named() -> None:
    with pytest.raises(ValueError, match=r"1 of 2 captions have no text states, the first is 'polka'"):
        text_states().rows(["a", "polka"])


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"states\.safetensors and captions\.parquet missing"):
        conditioning.load(tmp_path)


def test_t5s_states_are_those_of_its_encoder(tmp_path: Path) -> None:
    from transformers import T5EncoderModel

    small_t5(tmp_path)
    text = conditioning.embed(["slow piano", "loud drums piano slow loud"], tmp_path, max_tokens=5)
    assert text.offsets.tolist() == [0, 3, 8]
    encoder = T5EncoderModel.from_pretrained(tmp_path).eval()
    for row, tokens in enumerate(([3, 4, 1], [5, 6, 4, 3, 1])):
        with torch.no_grad():
            expected = encoder(input_ids=torch.tensor([tokens])).last_hidden_state[0]
        torch.testing.assert_close(text.batch([row])[0][0], expected, atol=2e-3, rtol=2e-3)


def test_an_encoder_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(job.JobError, match=r"conditioner\.encoder is .*: no text encoder there .*or minilm"):
        conditioning.embed(["a"], tmp_path, max_tokens=5)
    with pytest.raises(job.JobError, match=r"conditioner\.encoder is no/such-t5: no text encoder there"):
        conditioning.embed(["a"], "no/such-t5", max_tokens=5)


@pytest.mark.slow
def test_minilm_states_do_not_depend_on_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModel, AutoTokenizer

    from pipeline.fetch import minilm_folder

    monkeypatch.chdir(tmp_path)
    folder = minilm_folder(".cache/downloads")
    captions = ["slow piano", "A fast techno track in minor, dark and loud.", "choir", "drums " * 100]
    text = conditioning.embed(captions, folder, MAX_TOKENS)
    assert text.dimension == 384
    assert text.offsets.diff().max() == MAX_TOKENS
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    encoder = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    for i, caption in enumerate(captions):
        tokens = tokenizer(caption, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        with torch.no_grad():
            expected = encoder(**tokens).last_hidden_state[0]
        states, mask = text.batch([i])
        assert mask.all()
        torch.testing.assert_close(states[0], expected, atol=5e-3, rtol=5e-3)
