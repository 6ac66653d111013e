"""What the linears of attentions hold: queries, keys, values, or several of them one below the other."""

from __future__ import annotations

PROJECTIONS = {
    "qkv": ("q", "k", "v"),
    **dict.fromkeys(("q", "q_proj", "query"), ("q",)),
    **dict.fromkeys(("k", "k_proj", "key"), ("k",)),
    **dict.fromkeys(("v", "v_proj", "value"), ("v",)),
}
"""The projections that a linear of this name holds, in order, by the last part of its full name."""


def projections_of(name: str) -> tuple[str, ...]:
    """Name the projections that the linear of a full name holds, in order; none if the name does not tell."""
    return PROJECTIONS.get(name.rpartition(".")[2], ())
