"""Choose which texts people are asked next: a mix of strategies, each with its share, none asked twice."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from app.intent.arrays import IntArray
from app.intent.strategies import STRATEGIES, WITHOUT_MODEL, Pool, Scored

__all__ = ["DEFAULT_MIX", "STRATEGIES", "Chosen", "Pool", "check_mix", "choose"]

DEFAULT_MIX: Final[Mapping[str, float]] = MappingProxyType({"cluster_margin": 1.0})
"""Strategy -> share of what is not gold. Shares of other strategies cost labels: docs/selection.md has the figures."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A text to ask.

    Args:
        row: its place in the pool.
        strategy: a key of `STRATEGIES`: the one that asked for it.
        score: what that strategy gave it, in [0, 1], higher is worth more.
        probability: with which it was drawn, where it was drawn at random; else None.
        facts: what the reason in words is made of.
    """

    row: int
    strategy: str
    score: float
    probability: float | None
    facts: Mapping[str, Any]


def check_mix(mix: Mapping[str, float]) -> None:
    """Refuse a mix that names no strategy of `STRATEGIES`, or whose shares do not sum to 1.

    Raises:
        ValueError: says what is wrong.
    """
    unknown = sorted(set(mix) - set(STRATEGIES))
    if unknown:
        raise ValueError(f"there is no strategy {unknown[0]!r}; there are {', '.join(STRATEGIES)}")
    for name, share in mix.items():
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0.0 <= share <= 1.0:
            raise ValueError(f"the share of {name} must lie between 0 and 1")
    total = math.fsum(mix.values())
    if abs(total - 1.0) > 1e-6:
        raise ValueError(f"the shares of a mix sum to 1, not to {total:g}")


def choose(pool: Pool, mix: Mapping[str, float], size: int, rng: np.random.Generator) -> list[Chosen]:
    """The texts to ask, in the order in which to ask them; no row twice, `size` of them where so many wait.

    Strategies take turns in proportion to their shares, each with its best text that is not taken. One that has none
    left passes its turns on to the others, and what no strategy asks for is drawn at random. The share of `random` is
    drawn first, of the whole pool: its sampling probability depends on nothing else.
    """
    check_mix(mix)
    size = min(max(0, size), pool.size)
    shares = {name: share for name, share in mix.items() if share > 0.0}
    if pool.n_labels < 2:
        shares = _without_model(shares)
    if size == 0:
        return []
    quotas = _quotas(shares, size)
    lists = {}
    for name in sorted(shares, key=lambda name: name != "random"):
        scored = STRATEGIES[name](pool, max(1, quotas[name]), rng)
        order = np.argsort(-scored.scores, kind="stable")
        lists[name] = (scored, order[scored.scores[order] > 0.0])
    return _dealt(pool, lists, quotas, size, rng)


def _without_model(shares: Mapping[str, float]) -> dict[str, float]:
    """The shares of strategies that need a model go to `typical`."""
    kept = {name: share for name, share in shares.items() if name in WITHOUT_MODEL}
    rest = 1.0 - math.fsum(kept.values())
    if rest > 1e-9:
        kept["typical"] = kept.get("typical", 0.0) + rest
    return kept


def _quotas(shares: Mapping[str, float], size: int) -> dict[str, int]:
    """Whole numbers that sum to `size`, as near to the shares as it goes: largest remainders, the first of equals."""
    exact = {name: share * size for name, share in shares.items()}
    quotas = {name: math.floor(value + 1e-9) for name, value in exact.items()}
    missing = size - sum(quotas.values())
    for name in sorted(exact, key=lambda name: quotas[name] - exact[name])[:missing]:
        quotas[name] += 1
    return quotas


def _dealt(
    pool: Pool,
    lists: Mapping[str, tuple[Scored, IntArray]],
    quotas: Mapping[str, int],
    size: int,
    rng: np.random.Generator,
) -> list[Chosen]:
    found: list[Chosen] = []
    taken = np.zeros(pool.size, dtype=bool)
    held = np.zeros(pool.size, dtype=bool)
    if "random" in lists:
        held[lists["random"][1][: quotas["random"]]] = True
    places = dict.fromkeys(lists, 0)
    given = dict.fromkeys(lists, 0)
    open_names = [name for name in lists if quotas[name] > 0]
    while len(found) < size and open_names:
        # Whose share is filled the least; past it, all that have texts left go on in proportion.
        name = min(open_names, key=lambda name: (given[name] + 0.5) / quotas[name])
        if name == "random" and given[name] >= quotas[name]:
            open_names.remove(name)
            continue
        scored, order = lists[name]
        while places[name] < len(order):
            row = int(order[places[name]])
            if not taken[row] and (name == "random" or not held[row]):
                break
            places[name] += 1
        else:
            open_names.remove(name)
            continue
        taken[row] = True
        given[name] += 1
        probability = quotas[name] / pool.size if name == "random" else None
        found.append(Chosen(row, name, float(scored.scores[row]), probability, scored.facts(row)))
    left = np.flatnonzero(~taken)
    if len(found) < size:
        few = rng.permutation(left)[: size - len(found)]
        share = len(few) / len(left)
        found += [Chosen(int(row), "random", share, share, {}) for row in few]
    return found
