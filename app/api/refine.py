"""Ask the generative tier alone: `/refine`."""

from fastapi import APIRouter
from pydantic import Field

from app.api.access import needs
from app.api.bodies import StrictRoute
from app.api.classify import DEFAULT_TOPK, AnswerOut, answer, require_visible
from app.api.dependencies import AccessDep, Body, DomainName, ServicesDep
from app.api.problems import responses
from app.services.domains import DEFAULT
from app.serving.classifier import Asked

router = APIRouter(tags=["serving"], route_class=StrictRoute)


class RefineRequest(Body):
    """One question, for a second opinion."""

    text: str = Field(min_length=1, max_length=20_000, examples=["手机开不了机怎么办"])
    domain: DomainName = DEFAULT


@router.post(
    "/refine",
    response_model=AnswerOut,
    responses=responses(400, 404, 413, 422, 503),
    dependencies=[needs("product")],
)
async def refine(body: RefineRequest, given: ServicesDep, who: AccessDep) -> AnswerOut:
    """Name the intent of one question by the generative tier alone, among all labels. It is logged like any answer."""
    await require_visible(given, who, body.domain)
    logged = await given.classifier.refine(Asked(body.text, body.domain))
    if isinstance(logged, BaseException):
        raise logged
    return answer(logged, body.domain, DEFAULT_TOPK)
