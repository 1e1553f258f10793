"""The tables, one file per noun. A row is its columns and its constraints; what may happen to it lives in services."""

from app.db.tables.annotations import Annotation, Lease
from app.db.tables.audit import AuditEvent, Tombstone
from app.db.tables.base import Base, now
from app.db.tables.batches import BatchItem, TrainingBatch
from app.db.tables.counters import Counter
from app.db.tables.domains import Domain
from app.db.tables.imports import FileImport
from app.db.tables.keys import ApiKey
from app.db.tables.labels import Label, Scenario, TaxonomyChange
from app.db.tables.quarantine import QuarantinedQuestion
from app.db.tables.questions import UserQuestion
from app.db.tables.rules import KeywordRule, RuleSet
from app.db.tables.runs import JobRun, Replica
from app.db.tables.texts import Text, TextBand
from app.db.tables.versions import ModelActivation, ModelVersion

__all__ = [
    "Annotation",
    "ApiKey",
    "AuditEvent",
    "Base",
    "BatchItem",
    "Counter",
    "Domain",
    "FileImport",
    "JobRun",
    "KeywordRule",
    "Label",
    "Lease",
    "ModelActivation",
    "ModelVersion",
    "QuarantinedQuestion",
    "Replica",
    "RuleSet",
    "Scenario",
    "TaxonomyChange",
    "Text",
    "TextBand",
    "Tombstone",
    "TrainingBatch",
    "UserQuestion",
    "now",
]
