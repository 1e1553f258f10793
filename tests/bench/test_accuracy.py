from bench.accuracy import FORMS, judge
from bench.result import Result

JUDGED = [form.name for form in FORMS if form.judged]


def test_what_was_not_measured_is_missing_and_the_bench_does_not_hold() -> None:
    bars, missing = judge({"head": {name: [0.01] for name in JUDGED}})

    assert all(bar.holds for bar in bars.values())
    assert missing == tuple(
        f"encoder.{name}" for name in ("clinc150", "banking77", "clinc150-10shot", "banking77-10shot")
    )
    assert not Result({}, bars, missing).holds


def test_head_that_is_ahead_on_two_forms_only_does_not_hold() -> None:
    leads = {name: [lead] for name, lead in zip(JUDGED, (0.01, 0.0, 0.0, 0.01), strict=True)}

    bars, _ = judge({"head": leads})

    assert bars["head.lowest_lead"].holds
    assert not bars["head.forms_ahead"].holds


def test_one_seed_below_the_anchor_is_below() -> None:
    bars, _ = judge({"head": {name: [0.02, -0.0004] for name in JUDGED}})

    assert bars["head.forms_ahead"].holds
    assert not bars["head.lowest_lead"].holds


def test_encoder_is_judged_by_its_lead_over_head() -> None:
    head = {name: [0.01] for name in JUDGED}
    encoder = {name: [0.012] for name in JUDGED}

    bars, missing = judge({"head": head, "encoder": encoder})

    assert missing == ()
    assert bars["encoder.clinc150-10shot.lead_over_head"].holds
    assert not bars["encoder.clinc150.lead_over_head"].holds
