"""Tag divergence against its definition, and captions that fit their clips or do not."""

import numpy as np
import pytest

from pipeline.evaluation import tagging

TAGS = ("guitar", "slow", "fast", "no vocal", "vocal", "rock")


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_the_divergence_is_that_of_the_mean_posteriors() -> None:
    reference, system = noise(5, 3, 50), noise(5, 3, 50, seed=1)
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (reference, system))
    p, q = p.mean(1), q.mean(1)
    np.testing.assert_allclose(tagging.kl(reference, system), (p * np.log(p / q)).sum(-1), atol=1e-12)
    np.testing.assert_allclose(tagging.kl(reference, reference), 0, atol=1e-12)
    assert (tagging.kl(reference, system) > 0).all()
    with pytest.raises(ValueError, match="one shape"):
        tagging.kl(reference, system[:3])


@pytest.mark.parametrize(
    ("caption", "named"),
    [
        ("Slow guitar music.", {"slow", "guitar"}),
        ("ROCK, fast-paced", {"rock", "fast"}),
        ("Rockabilly with guitars", set()),
        ("Fast rock without a guitar, slow at the end", {"fast", "rock", "slow"}),
        ("", set()),
    ],
)
def test_tags_are_named_as_whole_words_and_not_denied(caption: str, named: set[str]) -> None:
    (found,) = tagging.stated([caption], TAGS)
    assert {tag for tag, there in zip(TAGS, found, strict=True) if there} == named


def clips(captions: list[str], strength: float, seed: int = 0) -> np.ndarray:
    """Logits of clips that have the tags of their captions, more or less, and a bias towards rock."""
    logits = noise(len(captions), 2, len(TAGS), seed=seed) + strength * tagging.stated(captions, TAGS)[:, None]
    return logits + np.array([0, 0, 0, 0, 0, 9.0])


CAPTIONS = ["slow guitar", "fast rock", "vocal", "slow rock", "fast guitar"] * 40


def test_clips_that_have_their_tags_agree_with_their_captions() -> None:
    assert tagging.agreement(clips(CAPTIONS, 100), CAPTIONS, TAGS).mean() > 0.85  # equal captions tie
    weak = tagging.agreement(clips(CAPTIONS, 1), CAPTIONS, TAGS).mean()
    assert 0.6 < weak < 0.85


def test_clips_that_know_nothing_of_their_captions_get_a_half() -> None:
    means = [tagging.agreement(clips(CAPTIONS, 0, seed), CAPTIONS, TAGS).mean() for seed in range(20)]
    assert np.mean(means) == pytest.approx(0.5, abs=3 * np.std(means) / np.sqrt(20))
    constant = np.tile(noise(1, 2, len(TAGS)), (len(CAPTIONS), 1, 1))
    np.testing.assert_allclose(tagging.agreement(constant, CAPTIONS, TAGS), 0.5)


def test_the_agreement_is_the_share_of_worse_captions() -> None:
    captions = ["guitar", "slow fast", "rock", "guitar slow"]
    logits = noise(4, 3, len(TAGS))
    standard = logits.mean(1)
    standard = (standard - standard.mean(0)) / standard.std(0)
    names = tagging.stated(captions, TAGS)
    for clip, found in enumerate(tagging.agreement(logits, captions, TAGS)):
        fits = [standard[clip, named].mean() for named in names]
        assert found == np.mean([fits[clip] > fit for other, fit in enumerate(fits) if other != clip])


def test_captions_that_name_no_tag_say_nothing() -> None:
    captions = ["guitar", "music", "slow"]
    found = tagging.agreement(noise(3, 2, len(TAGS)), captions, TAGS)
    np.testing.assert_array_equal(np.isnan(found), [False, True, False])
    assert np.isnan(tagging.agreement(noise(2, 2, len(TAGS)), ["guitar", ""], TAGS)).all()
