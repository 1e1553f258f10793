"""What further labels are worth, in the form in which `/stats` tells it."""

from typing import Annotated

from fastapi import Query
from pydantic import BaseModel

Target = Annotated[
    float | None, Query(gt=0.0, le=1.0, description="the macro-F1 for which `worth` tells the labels still needed")
]


class EstimateOut(BaseModel):
    """A figure with its 95 % interval."""

    value: float
    low: float | None
    high: float | None


class CurvePointOut(BaseModel):
    """A version as it was measured on gold."""

    version: str
    labels: int
    gold_count: int
    macro_f1: EstimateOut


class LearningCurveOut(BaseModel):
    """Macro-F1 = a - b · labels^-c, and what it comes to with labels without end."""

    a: float
    b: float
    c: float
    asymptote: EstimateOut


class TargetOut(BaseModel):
    """The labels that the curve needs beyond those of now; null is never."""

    macro_f1: float
    is_given: bool
    reached: bool
    more_labels: int | None
    low: int | None
    high: int | None


class GainOut(BaseModel):
    """What so many further labels add to macro-F1."""

    labels: int
    value: float
    low: float
    high: float


class ComparedOut(BaseModel):
    """How alike a version and the one that served before it answered."""

    version: str
    kappa: float
    sample: int
    against: str


class StopOut(BaseModel):
    """Whether further labels have stopped to change the answers."""

    stop: bool
    compared: list[ComparedOut]
    reason: str


class WorthOut(BaseModel):
    """What further labels are worth; no curve, target and gain before there are versions enough."""

    recipe: str | None
    labels: int
    points: list[CurvePointOut]
    curve: LearningCurveOut | None
    target: TargetOut | None
    gain: GainOut | None
    stop: StopOut
    says: list[str]
