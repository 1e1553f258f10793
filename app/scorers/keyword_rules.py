"""The rules tier: what the keyword rules of a frozen set say about a text."""

from collections.abc import Sequence

from app.intent.cascade import Verdict
from app.intent.fusion import answer_by_rules
from app.intent.rule_matching import Matcher
from app.intent.rules import Rule
from app.intent.text import MaskedText


class KeywordRules:
    """Judges texts by the rules that match them; it abstains where none does."""

    name = "rules"
    fuses: Sequence[str] = ()

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._matcher = Matcher(rules)

    def judge_many(
        self,
        texts: Sequence[MaskedText],
        earlier: Sequence[Sequence[Verdict]],  # noqa: ARG002 - the first tier has nobody before it
    ) -> list[Verdict]:
        """One verdict per text, with the ids of the rules that matched it."""
        return [self._verdict(self._matcher.matched(text)) for text in texts]

    def _verdict(self, matched: Sequence[Rule]) -> Verdict:
        ids = tuple(rule.rule_id for rule in matched)
        answers = answer_by_rules(matched)
        if not answers:
            return Verdict(self.name, None, rules=ids)
        label_id, confidence = answers[0]
        return Verdict(self.name, label_id, confidence, topk=tuple(answers), rules=ids)
