"""Personal data in arguments, files and settings is in nothing that a command says when it fails."""

import pytest

from tests.cli.conftest import Run
from tests.test_logs import PERSONAL, PHONE, SENTENCE


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        (("import", f"{PHONE}.jsonl"), {}),
        (("import", f"{PHONE}.jsonl", "--domain", PHONE), {}),
        (("taxonomy", "import", f"{PHONE}.yaml"), {}),
        (("models", "activate", PHONE, "--reason", SENTENCE), {}),
        (("recount", "--domain", PHONE), {}),
        (("migrate",), {"DATABASE_URL": f"nonsense://{PHONE}"}),
        (("migrate",), {"DATABASE_URL": f"sqlite:////nowhere/{PHONE}/x.db"}),
        (("migrate",), {"DATA_DIR": f"{PHONE}.jsonl"}),
        (("migrate",), {"TIMEZONE": PHONE}),
        (("clock",), {"TRAIN_CRON": PHONE}),
    ],
    ids=range(10),
)
def test_a_command_that_fails_says_why_without_personal_data(
    migrated: Run, empty_folder, arguments: tuple[str, ...], settings: dict[str, str]
) -> None:
    for ending in ("jsonl", "yaml"):
        (empty_folder / f"{PHONE}.{ending}").write_text(f"[{SENTENCE}\n", encoding="utf-8")
    said = migrated(*arguments, **settings)
    assert said.status in (1, 2)
    assert said.sentences or said.out
    for secret in PERSONAL:
        assert secret not in said.out + said.err, said
