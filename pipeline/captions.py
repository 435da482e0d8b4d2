"""The manifest: which clips stay, what their captions say, and which of them every system is scored on."""

import hashlib

import pandas as pd


def evaluation_rows(manifest: pd.DataFrame, clips: int, split: str = "test") -> pd.DataFrame:
    """The `clips` rows of `split` that every system renders and is scored on, in the manifest's order.

    Tracks take turns, so that long ones do not dominate; which clip of a track comes first is a hash of its name, so
    that the same manifest gives the same rows everywhere.

    Raises:
        ValueError: the split has fewer clips.
    """
    rows = manifest[manifest["split"] == split]
    if len(rows) < clips:
        raise ValueError(
            f"the {split} split has {len(rows)} clips, {clips} are wanted: lower generation.clips"
        )
    order = rows["clip_id"].map(lambda clip: hashlib.sha256(str(clip).encode()).hexdigest())
    turn = order.groupby(rows["track_id"]).rank(method="first")
    chosen = pd.DataFrame({"turn": turn, "order": order}).sort_values(["turn", "order"]).index[:clips]
    return rows.loc[rows.index.isin(chosen)]
