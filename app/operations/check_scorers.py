"""Look at what serves: whether this machine has the libraries that its artifacts need."""

from collections.abc import Iterator

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.tables import ModelVersion
from app.operations.findings import Finding, Patient
from app.scorers import require_libraries
from app.scorers.artifact import ArtifactCorrupt, LibraryMissing, read_manifest
from app.services.versions import serving_ids


def libraries(patient: Patient) -> Iterator[Finding]:
    """Every version that serves can be loaded by the Python that runs this."""
    # The generative tier's own are needed by a service only where it is switched on.
    for version in patient.work.read(_serving, generative=patient.settings.generative):
        try:
            require_libraries(read_manifest(patient.settings.artifacts / version.artifact_digest).scorer)
        except LibraryMissing as error:
            says = f"version {version.version} serves and cannot be loaded here: {error}"
            yield Finding("libraries", "fail", says, "install it on every machine that serves, or roll back")
        except (ArtifactCorrupt, OSError):
            # Damaged or gone: the check of artifacts says so.
            continue


def _serving(session: Session, *, generative: bool) -> list[ModelVersion]:
    wanted = serving_ids(session, generative=generative)
    return list(session.scalars(select(ModelVersion).where(ModelVersion.id.in_(wanted)).order_by(ModelVersion.id)))
