"""Every change of a claim's rule so far, and what the last study before it had said: readers may judge what was known.

The rules were first written in commit 516ccc9, 2026-11-22, before any number was read. The default study's verdicts
since are in `results/tables/claims.csv` of these commits:

    commit   date        C1         C2         C3             C4         C5         C6         C7          C8
    bf5fe9d  2026-11-22  supported  supported  not supported  supported  undecided  undecided  not tested
    1e3fa18  2026-11-22  supported  undecided  undecided      supported  undecided  undecided  not tested
    0892670  2026-11-23  supported  undecided  undecided      supported  undecided  undecided  supported
    640d7ef  2026-11-24  supported  undecided  undecided      supported  undecided  undecided  supported
    b437064  2026-11-25  supported  undecided  not supported  supported  undecided  undecided  supported
    e5ab8c3  2026-11-25  supported  undecided  not supported  supported  undecided  undecided  supported
    3b60691  2026-11-27  supported  supported  undecided      supported  undecided  undecided  supported   undecided
    290529c  2026-11-27  supported  supported  undecided      supported  undecided  undecided  supported   undecided

Codecs and language models differ from one to the next, except that those of 640d7ef to e5ab8c3 have the same codecs.
The last two are the commits that were run: tables of the first are in `runs/short`, of the second in `results`. They
differ in the codecs' steps alone, which were doubled after the first one's test numbers were read.
"""

from typing import NamedTuple

FIRST = "516ccc9"  # the commit that wrote the rules


class Change(NamedTuple):
    """One change of one claim's rule."""

    date: str
    commit: str
    claims: str
    what: str
    why: str
    before: str  # the verdict of the last study before it


_DECIDING = "a8b42c7"

RULE_CHANGES = [
    Change(
        "2026-11-22",
        "83ea289",
        "C4",
        "Processor seconds are reported beside, deciding nothing.",
        "Other jobs on the machine disturb them less.",
        "none: no study yet",
    ),
    Change(
        "2026-11-22",
        "8cb3e44",
        "C4",
        "Medians over batches with the whole interval over them, instead of one sum of seconds.",
        "One sum has no interval.",
        "supported",
    ),
    Change(
        "2026-11-23",
        "2bca7d6",
        "C7",
        "Decided by C1's rule on the grouped quantizer; C1 to C6 are about the residual one alone.",
        "The study had one quantizer until then.",
        "not tested",
    ),
    Change(
        "2026-11-23",
        "76543a6",
        "C1",
        "The estimator that calibration on known truths chooses, instead of the shuffled baseline; total correlation "
        "is reported beside.",
        "The shuffled baseline takes too much off codes that share much, and its error had not been measured.",
        "supported",
    ),
    Change(
        "2026-11-23",
        "76543a6",
        "C5",
        "Mutual information under the delay shift decides as well; before, it was reported beside.",
        "None was written down.",
        "undecided at this size",
    ),
    Change(
        "2026-11-23",
        "8fa9b2c",
        "C2",
        "The correlation over snapshots of training is reported beside, deciding nothing.",
        "Snapshots show more codecs, but those of one run are not independent.",
        "undecided at this size; supported in the study before",
    ),
    Change(
        "2026-11-23",
        "c2f5211",
        "C3, C5",
        "The mean over seeds decides, by resamples of tracks and seeds; before, each seed's difference did.",
        "Two seeds that disagree should leave them undecided.",
        "both undecided at this size; C3 not supported in the study before",
    ),
    Change(
        "2026-11-23",
        "f486a2e",
        "C6",
        "FAD-MTT of the reconstructions is reported beside, deciding nothing.",
        "SI-SDR and log-mel distance say little of how music sounds.",
        "undecided at this size",
    ),
    Change(
        "2026-11-26",
        _DECIDING,
        "all but C4",
        "The mean over seeds decides, by an interval over seeds and tracks whose coverage is simulated; before, each "
        "seed did, or resampled seeds. Against a claim, Bonferroni's wider interval.",
        "Resampling two seeds covers 77 to 85 % instead of 95, and one test of four against a claim said not supported "
        "in 11 to 22 % of studies without an effect.",
        "C1 and C7 supported, C3 not supported, C2, C5 and C6 undecided at this size",
    ),
    Change(
        "2026-11-26",
        _DECIDING,
        "C1, C7",
        "The fall is also reported as far and local excess. Codecs without language models are reported beside, where "
        "others have them.",
        "Most of what codebooks share at equal time is which piece is playing.",
        "supported",
    ),
    Change(
        "2026-11-26",
        _DECIDING,
        "C2",
        "At least 12 codecs of one architecture with 3 weights of the loss; MMD above its floor; one-sided p under 2.5 "
        "instead of 5 %.",
        "Over six codecs only a correlation of 0.93 is seen; the floor is most of what codecs with the loss read.",
        "undecided at this size; supported in the first study, over 6 codecs",
    ),
    Change(
        "2026-11-26",
        _DECIDING,
        "C3, C5",
        "At least three seeds and trained models; KAD-MTT decides too, and both distances to the codec's own "
        "reconstruction; a score decides only if it held its known orders.",
        "Two seeds say little of others, untrained models little of the loss, and a distance to real music is mostly "
        "the codec's.",
        "C3 not supported, C5 undecided at this size",
    ),
    Change(
        "2026-11-26",
        _DECIDING,
        "C3",
        "The undelayed loss is compared under the parallel pattern, the delayed one under the delay pattern; before, "
        "both under the delay pattern, which is now reported beside.",
        "The undelayed loss does not make independent what a step of the delay pattern holds: that is C5.",
        "not supported",
    ),
    Change(
        "2026-11-26",
        _DECIDING,
        "C8",
        "New: the price of factorising. What C3 reported as price, delay minus flatten, is called gap at equal steps.",
        "That difference was negative, which no price can be: the joint model was trained too little.",
        "none",
    ),
    Change(
        "2026-11-27",
        "b7673f8",
        "C9",
        "New: the loss on innovations against the loss on quantized vectors, by the price of factorising, where "
        "reconstruction and entropy are equal within margins.",
        "The paper's argument needs independence given the past, and its loss promotes that of the marginals.",
        "none: written before any price of that loss was measured",
    ),
]
