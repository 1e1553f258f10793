"""The timetable: which jobs there are, and which setting says when each runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from app.errors import SetupError
from app.settings import Settings
from jobs.context import JobContext
from jobs.cron import Slots, slots
from jobs.mine_keywords import mine_keywords
from jobs.propose_scenarios import propose_scenarios
from jobs.purge import purge
from jobs.select_questions import select_questions
from jobs.train_model import train_model

Job = Callable[[JobContext], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Entry:
    """One job and the name of the setting that says when it runs."""

    run: Job
    setting: str

    def cron(self, settings: Settings) -> str:
        """When it runs."""
        return str(getattr(settings, self.setting))

    def slots(self, settings: Settings) -> Slots:
        """The moments at which it runs.

        Raises:
            SetupError: the setting is no crontab; it is named.
        """
        try:
            return slots(self.cron(settings), settings.zone)
        except SetupError as error:
            raise SetupError(f"INTENTLOOP_{self.setting.upper()}: {error}") from error


TIMETABLE: Mapping[str, Entry] = {
    "select_questions": Entry(select_questions, "select_cron"),
    "train_model": Entry(train_model, "train_cron"),
    "mine_keywords": Entry(mine_keywords, "mine_cron"),
    "propose_scenarios": Entry(propose_scenarios, "propose_cron"),
    "purge": Entry(purge, "purge_cron"),
}
