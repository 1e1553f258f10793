"""Look for groups of questions that no label fits, and propose each as a new label."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from app.intent.class_words import class_words
from app.intent.clusters import Float32Array, nearest
from app.intent.latent_semantics import latent_embeddings
from app.intent.releases import Release
from app.intent.scenario_groups import find_scenarios, fit_cut
from app.intent.scenarios import is_large_enough
from app.intent.text import MaskedText
from app.scorers import load_scorer
from app.scorers.artifact import ArtifactCorrupt, LibraryMissing, read_manifest, verify
from app.scorers.placing import places
from app.services import domains, scenario_material, scenarios
from app.services.scenario_material import Material
from app.services.scenarios import Group
from jobs.context import JobContext

logger = logging.getLogger(__name__)

PAGE = 500

Embed = Callable[[Sequence[MaskedText]], Float32Array]
"""Texts in, embeddings of length 1 out; those of one call are compared with each other."""


def propose_scenarios(context: JobContext) -> dict[str, Any]:
    """Look in every domain whose questions a version answers, and say what became of what was found."""
    totals: Counter[str] = Counter()
    for domain in context.work.read(domains.listing):
        if context.stopping.is_set():
            break
        release = context.work.read(domains.release, domain.id)
        if not domain.keep_text or release.version is None:
            # Without a version nobody knows what is unsure: all is.
            continue
        material = context.work.read(scenario_material.material, domain, threshold=release.threshold)
        # Outside of any transaction: it takes seconds.
        groups = find_groups(material, embedding(context, release))
        totals.update(asdict(context.work(scenarios.store, domain.name, groups)))
    return {"new": 0, "updated": 0, "dismissed": 0, "gone": 0} | totals


def embedding(context: JobContext, release: Release) -> Embed:
    """The encoder's own embeddings where an encoder serves; otherwise these texts alone tell what they share."""
    digest = release.artifact_digest or ""
    try:
        folder = context.store.fetch(digest)
        verify(folder, digest)
        if read_manifest(folder).scorer != "onnx":
            return latent_embeddings
        scorer = load_scorer(folder)
    except (ArtifactCorrupt, LibraryMissing, OSError) as error:
        logger.warning("scenarios of domain %s are looked for without its encoder: %s", release.state.name, error)
        return latent_embeddings

    def embed(texts: Sequence[MaskedText]) -> Float32Array:
        pages = [texts[start : start + PAGE] for start in range(0, len(texts), PAGE)]
        return np.concatenate([places(scorer, page) for page in pages])

    return embed


def find_groups(material: Material, embed: Embed) -> list[Group]:
    """The groups among the candidates, with their typical texts first and the words that are typical of each."""
    if not is_large_enough(material.counts):
        return []
    embeddings = embed([*material.labelled, *material.texts])
    labelled, asked = embeddings[: len(material.labelled)], embeddings[len(material.labelled) :]
    near = nearest(asked, labelled)[1] if len(labelled) else np.full(len(asked), -1.0)
    cut = fit_cut(labelled, material.label_ids, np.random.default_rng(0))
    found = find_scenarios(asked, material.counts, near, cut=cut)
    if not found:
        return []
    grouped = [[material.texts[row] for row in group.members] for group in found]
    in_a_group = {int(row) for group in found for row in group.members}
    noise = [text for row, text in enumerate(material.texts) if row not in in_a_group]
    by_label: dict[int, list[MaskedText]] = {}
    for text, label_id in zip(material.labelled, material.label_ids, strict=True):
        by_label.setdefault(label_id, []).append(text)
    words = class_words([*grouped, *by_label.values(), *([noise] if noise else [])], user_words=material.user_words)
    return [
        Group([material.text_ids[row] for row in group.members], keywords)
        for group, keywords in zip(found, words, strict=False)
    ]
