"""A codebook pattern in one file: pairs of codebooks, one pair after the other."""

PATTERNS = {"pairs": lambda k, t, codebooks, frames: (codebooks + 1) // 2 * t + k // 2}
