"""Every setting of the installation, once: its type, its range, its unit and why one would change it.

Read from the environment (prefix `INTENTLOOP_`) and from a `.env` file. Only composition roots build it.
"""

import os
from pathlib import Path
from typing import Literal, Self
from urllib.parse import unquote, urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.artifacts.training_cache import training_cache as cache_of_trainers


class Settings(BaseSettings):
    """The knobs. What belongs to one domain (recipe, gate, keeping texts) is a column of the domain, not a setting."""

    model_config = SettingsConfigDict(
        env_prefix="INTENTLOOP_", env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True
    )

    # Where things are
    data_dir: Path = Field(Path("data"), description="folder of the SQLite database, the artifacts and the secret")
    database_url: SecretStr | None = Field(
        None,
        description="SQLAlchemy URL; without it an SQLite file in the data folder. "
        "postgresql://… and mysql://… (PyMySQL) work as they are",
    )
    artifacts_dir: Path | None = Field(
        None,
        description="folder of the trained artifacts, shared by every machine; <data_dir>/artifacts without it",
    )
    artifacts_url: str | None = Field(
        None,
        description="store of the trained artifacts that all machines share: s3://bucket/path, gs://…, az://…, or any "
        "URL of fsspec; credentials by the environment variables of that store, never in the URL. "
        "Instead of INTENTLOOP_ARTIFACTS_DIR",
    )
    artifact_cache_bytes: int = Field(
        10 * 2**30,
        ge=1,
        description="what this machine keeps of such a store in the data folder; what serves, or did so last, and what "
        "was used in the last ten minutes is kept all the same",
    )
    secret_key: SecretStr | None = Field(
        None,
        description="keys the hashes of user ids, of request bodies and of texts that are not kept; "
        "without it one is made in the data folder. Several machines need the same",
    )
    timezone: str = Field("UTC", description="IANA zone of cron times and of daily figures")

    # The service
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8001, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    workers: int = Field(
        1, ge=1, le=64, description="processes of one service, which share its port; each holds every model"
    )
    threads: int | None = Field(
        None, ge=1, le=256, description="threads of a model in each worker; without it the cores, shared out"
    )
    max_connections: int = Field(
        2048, ge=1, le=100_000, description="connections of one worker; the next one is answered 503"
    )
    head_seconds: float = Field(
        10.0, ge=0.1, le=600, description="a request's head must be there by then, or 408 is answered"
    )
    body_seconds: float = Field(
        30.0, ge=0.1, le=3600, description="and its body so long after its head: whoever sends slowly holds nothing"
    )
    idle_seconds: float = Field(
        75.0,
        ge=0.1,
        le=3600,
        description="a connection on which nothing is asked is closed; longer than a proxy keeps its own, so that "
        "the proxy closes first",
    )
    drain_seconds: float = Field(
        0.0,
        ge=0,
        le=600,
        description="at SIGTERM a service is not ready for so long before it stops to accept: as long as a load "
        "balancer needs to see it",
    )
    grace_seconds: float = Field(
        10.0, ge=0.1, le=3600, description="what is in flight may then take so long before it is given up"
    )
    max_body_bytes: int = Field(
        8 * 1024 * 1024, ge=1024, le=1 << 30, description="larger bodies are answered 413, unread"
    )
    max_json_depth: int = Field(32, ge=4, le=200, description="deeper JSON is answered 400")
    queue_size: int = Field(
        1024,
        ge=1,
        le=100_000,
        description="questions waiting for the model or the log before 503 is answered",
    )
    log_mode: Literal["spool", "strict"] = Field(
        "spool",
        description="while the database is away, spool: answers are kept on this machine's disk and go on; "
        "strict: /classify answers 503",
    )
    log_patience_seconds: float = Field(
        1.0,
        ge=0.05,
        le=10,
        description="a commit of answers that takes longer is spooled (strict: answered 503) and its questions go on",
    )
    spool_max_bytes: int = Field(
        256 * 1024 * 1024,
        ge=4096,
        le=1 << 40,
        description="disk that the spools of one machine may take; beyond it 503 is answered",
    )
    spool_max_rows: int = Field(
        1_000_000, ge=1, le=100_000_000, description="questions that one process may spool; beyond it 503 is answered"
    )
    poll_seconds: float = Field(
        0.2,
        gt=0.01,
        le=10,
        description="how often a service looks for a flip; a flip is seen within a second",
    )
    start_degraded: bool = Field(
        True,
        description="start while the database does not answer, with what this machine served last; "
        "false: such a start is refused",
    )
    cors_origins: list[str] = Field([], description="browser origins that may call the API; none by default")
    allowed_hosts: list[str] = Field(
        [],
        description="further names of this machine, as a request's Host, under which it answers while there is no key; "
        "localhost and loopback addresses always work",
    )
    rate_per_minute: int = Field(
        6000,
        ge=1,
        le=10_000_000,
        description="requests a minute of one key before 429 is answered, by each process; a key's own rate wins",
    )

    # The generative tier: a process of its own that is asked about what the model is unsure of
    generative: bool = Field(
        False,
        description="ask a domain's generative version about what stays below the threshold; the service starts one "
        "process for it, which needs `intentloop[train]`",
    )
    generative_threads: int = Field(1, ge=1, le=256, description="threads of that process for one answer")
    generative_memory_mb: int | None = Field(
        None,
        ge=256,
        le=1 << 24,
        description="address space (MiB) of that process: what takes more fails, and the tier abstains",
    )
    generative_seconds: float = Field(
        5.0,
        ge=0.05,
        le=600,
        description="how long an answer waits for the tier before it leaves without it",
    )
    refine_seconds: float = Field(
        30.0, ge=0.05, le=3600, description="how long `/refine`, which asks about all labels, waits before 503"
    )
    generative_queue: int = Field(
        16,
        ge=1,
        le=10_000,
        description="questions of one worker that wait for the tier; the next one is answered without it",
    )

    # What is logged
    log_format: Literal["console", "json"] = Field(
        "console", description="console: for people; json: one object a line"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="lines below it are not written"
    )
    access_log: Literal["debug", "info"] = Field(
        "debug",
        description="level of the line that each request writes, with route, status and duration; "
        "info writes one for every request",
    )

    # The clock: crontab with five fields, or six with seconds first
    select_cron: str = Field("*/10 * * * *", description="when waiting texts are scored again and gold is drawn")
    train_cron: str = Field("* * * * *", description="when the clock asks whether enough labels for a batch are in")
    purge_cron: str = Field("30 3 * * *", description="when what has outlived its use is deleted")
    mine_cron: str = Field("0 3 * * *", description="when keyword rules are mined and failing ones are retired")
    propose_cron: str = Field("30 4 * * *", description="when groups of questions that no label fits are looked for")
    mine_timeout_seconds: float = Field(
        300.0, gt=1, le=86_400, description="mining that a request asked for is stopped after this, and answered 503"
    )
    heartbeat_seconds: float = Field(5.0, gt=0.05, le=600, description="how often a running batch says it is alive")
    lost_after_seconds: float = Field(
        60.0, gt=0.2, le=86_400, description="a batch or run without a heartbeat for so long is failed"
    )
    train_timeout_seconds: float = Field(6 * 3600.0, gt=1, description="a trainer that runs longer is stopped")
    bases_dir: Path | None = Field(
        None,
        description="folder of pretrained models, filled by `intentloop models pull`; <data_dir>/bases without it",
    )
    train_memory_mb: int | None = Field(
        None,
        ge=256,
        le=1 << 24,
        description="address space (MiB) of a trainer: beyond it its batch fails; without it a trainer that takes all "
        "memory may have the service killed",
    )
    retry_delays_seconds: tuple[float, ...] = Field(
        (60.0, 300.0, 1500.0),
        description="a failed batch is tried again after these, then only with a new label",
    )

    # When a batch opens
    batch_labels: int = Field(100, ge=2, description="new labels that open a batch")
    batch_share: float = Field(0.10, ge=0, le=1, description="or this share of what is labelled, if that is more")
    batch_small_labels: int = Field(20, ge=2, description="fewer are enough when the oldest has waited …")
    batch_small_days: float = Field(7.0, ge=0, description="… so many days: rare domains must not wait for ever")

    extract_keywords: bool = Field(True, description="mine keyword rules after each batch that the clock opened")

    # What a person is asked
    selection_size: int = Field(100, ge=1, le=10_000, description="texts in one selection: gold is drawn as its share")
    selection_candidates: int = Field(
        20_000, ge=100, le=200_000, description="waiting texts that one selection is chosen from, at most"
    )
    lease_seconds: int = Field(900, ge=5, le=86_400, description="how long a labeler holds a text by default")
    proposal_size: int = Field(
        50,
        ge=2,
        description="texts under one proposed label that make it a label; from so many on a label is trained that grew "
        "out of a scenario",
    )

    # What is deleted
    replica_days: float = Field(1.0, gt=0, description="days after which a service that stopped reporting is forgotten")
    run_days: float = Field(90.0, gt=0, description="days that finished runs of the clock stay in the ledger")
    question_days: float | None = Field(
        None,
        gt=0,
        description="questions asked longer ago are forgotten, and with them the texts that nobody asked since, "
        "labelled ones too; all are kept without it",
    )
    unlabelled_text_days: float | None = Field(
        None,
        gt=0,
        description="texts that nobody labelled and nobody asked for so many days are forgotten with their questions: "
        "what people answered stays; all are kept without it",
    )
    keep_versions: int | None = Field(
        None,
        ge=1,
        description="artifacts of versions that never served are removed when so many newer ones are there, to save "
        "disk; all are kept without it",
    )

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(f"{value!r} is not a time zone of this machine; Asia/Shanghai is one") from error
        return value

    @field_validator("artifacts_url")
    @classmethod
    def _store_without_a_secret(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if not parts.scheme or not value.startswith(f"{parts.scheme}://"):
            raise ValueError("it is no URL; file:///srv/artifacts, s3://bucket/path and gs://bucket/path are some")
        if parts.username or parts.password or parts.query or parts.fragment:
            # It is shown and logged.
            raise ValueError("credentials and options belong into the environment variables of that store")
        return value

    @model_validator(mode="after")
    def _one_place_of_artifacts(self) -> Self:
        if self.artifacts_url is not None and self.artifacts_dir is not None:
            raise ValueError("artifacts_dir and artifacts_url exclude each other: set one of them")
        return self

    @property
    def threads_each(self) -> int:
        """Threads of a model in each worker."""
        return self.threads or max(1, (os.cpu_count() or 1) // self.workers)

    @property
    def zone(self) -> ZoneInfo:
        """The zone of cron times and daily figures."""
        return ZoneInfo(self.timezone)

    @property
    def url(self) -> str:
        """Where the database is. Holds a password: never log it."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.data_dir.resolve() / 'intentloop.db'}"

    @property
    def spool(self) -> Path:
        """The folder in which answers wait while the database is away; of this machine alone."""
        return self.data_dir / "spool"

    @property
    def audit_head(self) -> Path:
        """The file in which this machine remembers where the audit trail ended."""
        return self.data_dir / "audit.head"

    @property
    def artifacts_are_in_a_folder(self) -> bool:
        """Whether artifacts are served from where they lie, or from a cache of another store."""
        return self.artifacts_url is None or self.artifacts_url.startswith("file://")

    @property
    def artifacts(self) -> Path:
        """The folder of this machine in which artifacts lie under their digest, or are kept for a while."""
        if self.artifacts_url is not None:
            if self.artifacts_are_in_a_folder:
                return Path(unquote(urlsplit(self.artifacts_url).path)).resolve()
            return (self.data_dir / "cache" / "artifacts").resolve()
        return (self.artifacts_dir or self.data_dir / "artifacts").resolve()

    @property
    def bases(self) -> Path:
        """The folder of this machine in which pretrained models lie by their names."""
        return (self.bases_dir or self.data_dir / "bases").resolve()

    @property
    def training_cache(self) -> Path:
        """The folder of this machine in which each domain's trainer keeps what it need not compute again."""
        return cache_of_trainers(self.data_dir)

    @property
    def last_known(self) -> Path:
        """The folder in which this machine remembers what it served last, and to whom."""
        return self.data_dir / "last"
