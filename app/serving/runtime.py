"""The models that are loaded: load and prove a new one beside the old, then switch in one assignment."""

import ctypes
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from app.artifacts.folder import FolderStore
from app.artifacts.store import ArtifactUnavailable
from app.intent.cascade import Tier
from app.intent.fusion import fusion_from_json
from app.intent.releases import Release
from app.intent.text import MaskedText
from app.scorers import load_scorer
from app.scorers.artifact import ArtifactCorrupt, LibraryMissing, Scorer, check_reference_answers, verify
from app.scorers.keyword_rules import KeywordRules
from app.scorers.tiers import tiers_of

logger = logging.getLogger(__name__)

# Kept loaded beside the active one, so that a rollback needs no file.
KEPT_SCORERS = 3
KEPT_RULE_SETS = 3
WARM_UP = (MaskedText("你好"), MaskedText("warm up"), MaskedText("1"))


class LoadFailed(Exception):
    """The wanted version could not be loaded or did not prove itself; what was loaded before still serves."""

    def __init__(self, reason: str, *, corrupt: bool) -> None:
        super().__init__(reason)
        self.corrupt = corrupt


@dataclass(frozen=True, slots=True)
class Loaded:
    """What answers one domain: a request reads it once, so that label, confidence and version belong together."""

    release: Release
    tiers: tuple[Tier, ...]


class Runtime:
    """One per process. Readers take `find(domain)` without a lock: the mapping is replaced, never changed."""

    def __init__(self, artifacts: Path | Callable[[str], Path], *, threads: int = 1) -> None:
        """`artifacts`: the folder of artifacts, or what fetches one by its digest to a folder of this machine.

        `threads`: how many compute one answer of a model that can use more than one.
        """
        self._fetch = FolderStore(artifacts).fetch if isinstance(artifacts, Path) else artifacts
        self._threads = threads
        self._loaded: Mapping[str, Loaded] = {}
        self._scorers: OrderedDict[str, Scorer] = OrderedDict()
        # By domain and revision, which is never given twice.
        self._rule_sets: OrderedDict[tuple[int, int], KeywordRules] = OrderedDict()
        # Guards what is kept, and the switch; never held while something is read or proved.
        self._switching = threading.Lock()

    def find(self, domain: str) -> Loaded | None:
        """What answers this domain now, or None when this process knows no such domain yet."""
        return self._loaded.get(domain)

    @property
    def loaded(self) -> Mapping[str, Loaded]:
        """What answers each domain now."""
        return self._loaded

    @property
    def kept_digests(self) -> frozenset[str]:
        """The artifacts that are in memory: those that serve, and those that one may go back to.

        And those that the generative process, which reads them from their folder, may have in its own.
        """
        named = [loaded.release.generative_digest for loaded in self._loaded.values()]
        with self._switching:
            return frozenset(self._scorers) | {digest for digest in named if digest is not None}

    def fetch(self, digest: str) -> Path:
        """The folder of this machine in which an artifact lies.

        Raises:
            ArtifactCorrupt, ArtifactUnavailable: there is none.
        """
        return self._fetch(digest)

    def has(self, release: Release) -> bool:
        """Whether model and rules of a release are in memory, so that a swap to it is a matter of microseconds."""
        rules = (release.state.domain_id, release.rule_set_revision or 0)
        with self._switching:
            scorer_is_here = release.artifact_digest is None or release.artifact_digest in self._scorers
            return scorer_is_here and (not release.rules or rules in self._rule_sets)

    def swap(self, release: Release, *, may_serve: Callable[[], bool] = lambda: True) -> bool:
        """Load, prove and warm what the release names while the old one serves, then switch.

        Loading may take long, and other flips may come meanwhile: `may_serve` is asked right before the switch, and an
        epoch never replaces a later one. False: nothing was switched for one of these reasons.

        Raises:
            LoadFailed: nothing was switched.
        """
        was_here = self.has(release)
        loaded = Loaded(release, self._tiers(release))
        if not may_serve():
            return False
        with self._switching:
            if _is_overtaken(self._loaded.get(release.state.name), release):
                return False
            self._loaded = {**self._loaded, release.state.name: loaded}
            self._let_go()
        if not was_here:
            _give_memory_back()
        return True

    def _tiers(self, release: Release) -> tuple[Tier, ...]:
        scorer: Scorer | None = None
        if release.artifact_digest is not None:
            scorer = self._scorer(release.artifact_digest)
            _refuse_unknown_labels(scorer.label_ids, release.paths)
        fusion = fusion_from_json(release.fusion) if release.fusion is not None else None
        return tiers_of(
            scorer,
            release.version,
            rules=release.rules,
            fusion=fusion,
            compiled=self._compiled(release),
            paths=release.paths,
        )

    def answer_without_model(self, release: Release) -> None:
        """Know a domain whose first version cannot be loaded: its questions are logged, and its rules answer alone.

        It stands at epoch 0, before any flip, so that what it should serve is tried again.
        """
        state = replace(release.state, epoch=0)
        # Their confidence is their own, and τ was fitted for another: a person looks at each.
        bare = Release(state, None, None, None, 1.0, release.paths)
        tiers: tuple[Tier, ...] = ()
        with suppress(LoadFailed):
            tiers = tiers_of(None, None, rules=release.rules, compiled=self._compiled(release))
        with self._switching:
            # Unless it was loaded after all, at this moment.
            self._loaded = {state.name: Loaded(bare, tiers), **self._loaded}

    def _compiled(self, release: Release) -> KeywordRules | None:
        if not release.rules or release.rule_set_revision is None:
            return None
        key = (release.state.domain_id, release.rule_set_revision)
        with self._switching:
            known = self._rule_sets.get(key)
        if known is None:
            try:
                known = KeywordRules(release.rules)
                known.judge_many(WARM_UP, ())
            except Exception as error:  # Rules were checked when they were saved; what slips through stops no domain.
                reason = f"rule set {release.rule_set_revision} could not be compiled: {type(error).__name__}"
                raise LoadFailed(reason, corrupt=False) from error
        with self._switching:
            self._rule_sets[key] = known
            self._rule_sets.move_to_end(key)
            while len(self._rule_sets) > KEPT_RULE_SETS + len(self._loaded):
                self._rule_sets.popitem(last=False)
        return known

    def _scorer(self, digest: str) -> Scorer:
        with self._switching:
            known = self._scorers.get(digest)
        if known is None:
            known = _prove(self._fetch, digest, self._threads)
        with self._switching:
            self._scorers[digest] = known
            self._scorers.move_to_end(digest)
            self._let_go()
        return known

    def _let_go(self) -> None:
        """Drop what was used longest ago. A request that holds it still answers with it; the memory goes with the last.

        Once more after the switch: the one that was left counts as in use until then.
        """
        in_use = {loaded.release.artifact_digest for loaded in self._loaded.values() if loaded.release.artifact_digest}
        while len(self._scorers) > KEPT_SCORERS + len(in_use):
            oldest = next(name for name in self._scorers if name not in in_use)
            del self._scorers[oldest]


def _give_memory_back() -> None:
    """Return to the system what the C library holds free.

    Each load is a thread with an arena of its own, in which an encoder leaves holes: without this a process of four
    encoders held half as much again. It takes milliseconds; other C libraries than glibc have no such function.
    """
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _is_overtaken(serving: Loaded | None, release: Release) -> bool:
    return serving is not None and serving.release.state.epoch > release.state.epoch


def _prove(fetch: Callable[[str], Path], digest: str, threads: int) -> Scorer:
    """Digest first, before anything is parsed; then load; then the reference answers: "loaded" is not "correct"."""
    try:
        folder = fetch(digest)
        verify(folder, digest)
        scorer = load_scorer(folder, threads=threads)
        check_reference_answers(scorer, folder)
        scorer.probabilities(WARM_UP)
    except LibraryMissing as error:
        raise LoadFailed(f"artifact {digest[:12]} cannot be served here: {error}", corrupt=False) from error
    except ArtifactCorrupt as error:
        raise LoadFailed(f"artifact {digest[:12]} is not what was trained: {error}", corrupt=True) from error
    except ArtifactUnavailable as error:
        raise LoadFailed(f"artifact {digest[:12]} is out of reach: {error}", corrupt=False) from error
    except Exception as error:  # Whatever a file of the right bytes still breaks must not stop the other domains.
        raise LoadFailed(
            f"artifact {digest[:12]} could not be loaded: {type(error).__name__}", corrupt=False
        ) from error
    return scorer


def _refuse_unknown_labels(label_ids: Sequence[int], paths: Mapping[int, str]) -> None:
    unknown = [label_id for label_id in label_ids if label_id not in paths]
    if unknown:
        raise LoadFailed(f"the artifact names labels that this domain never had: {unknown[:5]}", corrupt=True)
