"""Put the generative tier together: its queue, what is known of its process, and who keeps that running."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from app.intent.releases import Release
from app.scorers.generative import GenerativeClient
from app.serving.generative import Recheck
from app.serving.generative_keeper import SOCKET, Keeper
from app.serving.generative_proofs import Proofs, Status
from app.serving.runtime import Runtime
from app.settings import Settings


@dataclass(frozen=True, slots=True)
class Generative:
    """The tier of one service process. `keeper` is None where another process keeps the tier's own running."""

    recheck: Recheck
    proofs: Proofs
    keeper: Keeper | None

    def standing(self) -> tuple[Status, str | None]:
        """How it stands, and a sentence where not all is well."""
        return self.proofs.standing()

    def start(self) -> None:
        """Start its process, or look for the one that is there."""
        if self.keeper is not None:
            self.keeper.start()
        self.proofs.start()

    def stop(self) -> None:
        """Stop looking, and end the process that was started here."""
        self.proofs.stop()
        if self.keeper is not None:
            self.keeper.stop()


def open_generative(
    settings: Settings, runtime: Runtime, *, folder: Path | None, observe: Callable[[str, float], None]
) -> Generative | None:
    """The tier as the settings want it; None where it is switched off. Nothing is started yet.

    Args:
        folder: of the keeper in another process, if there is one.
        observe: takes what became of each question, and the seconds that it took.
    """
    if not settings.generative:
        return None
    keeper = keeper_of(settings) if folder is None else None
    kept = keeper.folder if keeper is not None else folder
    assert kept is not None
    client = GenerativeClient(kept / SOCKET)

    def wanted() -> list[Release]:
        return [loaded.release for loaded in runtime.loaded.values()]

    proofs = Proofs(kept, client, wanted=wanted, fetch=runtime.fetch)
    recheck = Recheck(
        client,
        proofs,
        capacity=settings.generative_queue,
        seconds=settings.generative_seconds,
        alone_seconds=settings.refine_seconds,
        observe=observe,
    )
    return Generative(recheck, proofs, keeper)


def keeper_of(settings: Settings) -> Keeper:
    """Who keeps the process running that these settings describe."""
    return Keeper(
        settings.bases,
        threads=settings.generative_threads,
        # Each worker asks about one question at a time, and proves an artifact beside it.
        waiting=2 * settings.workers,
        memory_mb=settings.generative_memory_mb,
    )
