"""Put the tiers of one release together: the one way in which they serve, are proved and are compared."""

from collections.abc import Mapping, Sequence

from app.intent.cascade import Tier
from app.intent.fusion import Fusion
from app.intent.hierarchy import Hierarchy
from app.intent.rules import Rule
from app.scorers.artifact import Scorer
from app.scorers.keyword_rules import KeywordRules
from app.scorers.local_model import LocalModel


def tiers_of(
    scorer: Scorer | None,
    version: str | None,
    *,
    rules: Sequence[Rule] = (),
    fusion: Fusion | None = None,
    compiled: KeywordRules | None = None,
    paths: Mapping[int, str] | None = None,
) -> tuple[Tier, ...]:
    """The tiers in the order in which they are asked: rules, then the model that fuses their verdicts.

    `compiled`: the tier of these very rules, where it was built before. `paths`: of all labels, by id; without them
    answers say nothing of what is above their labels.
    """
    tiers: list[Tier] = []
    if rules:
        tiers.append(compiled or KeywordRules(rules))
    if scorer is not None and version is not None:
        hierarchy = Hierarchy(paths, scorer.label_ids) if paths is not None else None
        tiers.append(LocalModel(scorer, version, rules=rules, fusion=fusion if rules else None, hierarchy=hierarchy))
    return tuple(tiers)
