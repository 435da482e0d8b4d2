"""Pieces of music to compose: what decides each one's random numbers."""

from pipeline.generation.compose import _pieces
from pipeline.generation.sampling import clip_uniforms


def test_a_caption_given_twice_gets_two_pieces_of_music() -> None:
    pieces = _pieces(["slow piano", "fast drums", "slow piano", "1:slow piano"], None, clips=4)
    assert pieces["file"].tolist() == ["0000.wav", "0001.wav", "0002.wav", "0003.wav"]
    assert pieces["caption"].tolist() == ["slow piano", "fast drums", "slow piano", "1:slow piano"]
    assert pieces["clip_id"].is_unique
    numbers = clip_uniforms(pieces["clip_id"].tolist(), 0, 2, 5)
    assert len(numbers.flatten(1).unique(dim=0)) == 4


def test_a_piece_does_not_depend_on_the_others() -> None:
    alone, among = _pieces(["slow piano"], None, 4), _pieces(["fast drums", "slow piano"], None, 4)
    assert alone["clip_id"][0] == among["clip_id"][1]
