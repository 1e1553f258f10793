"""The errors a caller can act on; each knows its HTTP status and a code that never changes.

The first line of a class's docstring is its title in the problem document (RFC 9457). Messages hold ids, labels and
numbers, never the text of a question.
"""

from typing import Any, ClassVar


class IntentError(Exception):
    """The request could not be carried out."""

    status_code: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str | None = None, **details: Any) -> None:
        """`details` become members of the problem document: JSON values only."""
        super().__init__(message or (type(self).__doc__ or "").strip().splitlines()[0])
        self.details = details
        # What the response says beside the document.
        self.headers: dict[str, str] = {}

    @property
    def title(self) -> str:
        """The same sentence for every error of this class."""
        return (type(self).__doc__ or "").strip().splitlines()[0]


class Unauthenticated(IntentError):
    """This service is open to holders of a key only."""

    status_code = 401
    code = "unauthenticated"

    def __init__(self, message: str | None = None, **details: Any) -> None:
        super().__init__(message, **details)
        self.headers = {"WWW-Authenticate": 'Bearer realm="intentloop"'}


class Forbidden(IntentError):
    """This key may not do that."""

    status_code = 403
    code = "forbidden"


class OtherLabeler(Forbidden):
    """This key speaks for another labeler."""

    code = "other_labeler"


class ForeignHost(Forbidden):
    """Without keys the service answers programs of its own machine only."""

    code = "foreign_host"


class RateLimited(IntentError):
    """This key has asked too often."""

    status_code = 429
    code = "rate_limited"

    def __init__(self, message: str | None = None, *, retry_after_seconds: int = 1) -> None:
        super().__init__(message)
        self.headers = {"Retry-After": str(retry_after_seconds)}


class NotFound(IntentError):
    """There is no such thing."""

    status_code = 404
    code = "not_found"


class DomainNotFound(NotFound):
    """There is no such domain."""

    code = "domain_not_found"


class Malformed(IntentError):
    """The request is not what this route takes."""

    status_code = 422
    code = "validation_error"


class MalformedBody(IntentError):
    """The body is not JSON that this service reads."""

    status_code = 400
    code = "malformed_json"


class BodyTooLarge(IntentError):
    """The body is larger than this service takes."""

    status_code = 413
    code = "body_too_large"


class TextRefused(Malformed):
    """The text is empty or too long."""

    code = "text_refused"


class RequestIdConflict(Malformed):
    """This request id was used with another body."""

    code = "request_id_conflict"


class TaxonomyRefused(Malformed):
    """The taxonomy cannot be read as a set of labels."""

    code = "taxonomy_invalid"


class MixRefused(Malformed):
    """A mix names its strategies with shares that sum to 1."""

    code = "mix_invalid"


class UnknownLabel(Malformed):
    """The label is not in the domain's taxonomy."""

    code = "unknown_label"


class TooManyLabels(Malformed):
    """A single-label domain takes one label."""

    code = "too_many_labels"


class LevelsInsteadOfLabel(Malformed):
    """Levels were sent where a label belongs: join them."""

    code = "levels_not_label"


class TaskUnsupported(Malformed):
    """This kind of domain cannot be trained yet."""

    code = "task_unsupported"


class Conflict(IntentError):
    """The state of the thing does not allow this now."""

    status_code = 409
    code = "conflict"


class DomainExists(Conflict):
    """A domain of this name exists."""

    code = "domain_exists"


class LabelExists(Conflict):
    """Another label has this path."""

    code = "label_exists"


class ChangedSince(Conflict):
    """What this change left was changed since: it cannot be undone."""

    code = "changed_since"


class TaxonomyEmpty(Conflict):
    """The domain has no labels yet: import its taxonomy first."""

    code = "taxonomy_empty"


class NoTexts(Conflict):
    """This domain keeps no text, so there is nothing to show."""

    code = "no_texts"


class Leased(Conflict):
    """Another labeler holds this text."""

    code = "leased"


class LeaseLost(Conflict):
    """The lease ended, and the text may be with another labeler."""

    code = "lease_lost"


class AlreadyLabelled(Conflict):
    """Another labeler has answered this text."""

    code = "already_labelled"


class NothingToUndo(Conflict):
    """This labeler has no answer here to take back."""

    code = "nothing_to_undo"


class Retired(Conflict):
    """The text is no longer asked."""

    code = "skipped"


class Discarded(Conflict):
    """A labeler found that this is nothing to label."""

    code = "discarded"


class Disputed(Conflict):
    """The answers about this text differ, and a person must decide."""

    code = "disputed"


class NotDisputed(Conflict):
    """There are no answers about this text that differ."""

    code = "not_disputed"


class OneClass(Conflict):
    """Training needs at least two labels with two texts each."""

    code = "one_class"


class NoBaseModel(Conflict):
    """The recipe starts from a base model, and the domain names none."""

    code = "no_base_model"


class NothingNew(Conflict):
    """There is no new label to train on."""

    code = "nothing_new"


class BatchState(Conflict):
    """The batch is not in a state that allows this."""

    code = "batch_state"


class ClaimLost(Conflict):
    """The claim on this batch ended, and another worker may have it."""

    code = "claim_lost"


class StaleEpoch(Conflict):
    """Another flip came first."""

    code = "stale_epoch"


class VersionUnusable(Conflict):
    """This version cannot be served."""

    code = "version_unusable"


class NothingToRollBack(Conflict):
    """No version was active before the current one."""

    code = "nothing_to_roll_back"


class ScenarioDecided(Conflict):
    """Somebody has decided about this scenario."""

    code = "scenario_decided"


class RuleRefused(Malformed):
    """A keyword rule cannot look like this."""

    code = "rule_invalid"


class RuleExists(Conflict):
    """Another rule of this label has this keyword."""

    code = "rule_exists"


class TooManyRules(Conflict):
    """The domain holds as many keyword rules as it may."""

    code = "too_many_rules"


class ExtractionRunning(Conflict):
    """Keyword rules of this domain are being mined already."""

    code = "extraction_running"


class Unavailable(IntentError):
    """The service cannot do this right now; try again."""

    status_code = 503
    code = "unavailable"


class RequestTimeout(IntentError):
    """The request took too long to arrive."""

    status_code = 408
    code = "request_timeout"


class HeadTooLarge(IntentError):
    """The head of the request is too large."""

    status_code = 431
    code = "head_too_large"


class TooManyConnections(Unavailable):
    """Too many connections are open; try again."""

    code = "too_many_connections"


class CallerGone(IntentError):
    """The caller hung up while the question waited for the model."""

    status_code = 499
    code = "caller_gone"


class Overloaded(Unavailable):
    """Too much is queued already; try again."""

    code = "overloaded"


class NoGenerativeAnswer(Unavailable):
    """The generative tier cannot answer: it is switched off, starting, broken or overloaded."""

    code = "generative_unavailable"


class SpoolFull(Unavailable):
    """The database is away, and no further answer can be kept for it."""

    code = "spool_full"


class SetupError(IntentError):
    """The installation is not ready."""

    code = "setup_error"
