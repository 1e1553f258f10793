"""What is shipped to run the service elsewhere names commands, settings and files that exist, and no secret."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from app import __version__
from app.settings import Settings
from tests.test_docs import COMMANDS

ROOT = Path(__file__).parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service]
EXAMPLE = ROOT / "deploy" / "intentloop.env.example"
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
SETTINGS = {f"INTENTLOOP_{name.upper()}" for name in Settings.model_fields}


def test_service_clock_migration_and_database_are_there() -> None:
    assert set(SERVICES) == {"database", "migrate", "service", "clock"}
    assert set(OURS) == {"migrate", "service", "clock"}


@pytest.mark.parametrize("name", OURS)
def test_every_command_and_option_exists(name: str) -> None:
    command, *options = SERVICES[name]["command"]
    known = COMMANDS[f"intentloop {command}"]
    named = {option for parameter in known.params for option in parameter.opts}
    assert {option for option in options if option.startswith("--")} <= named


def test_entry_point_of_the_image_is_the_command_that_the_package_installs() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    (entry,) = re.findall(r'^ENTRYPOINT \["(\w+)"\]$', DOCKERFILE, flags=re.MULTILINE)
    assert entry in scripts
    assert SERVICES["service"]["image"].endswith(f":{__version__}")


def test_image_copies_what_the_package_is_built_from() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    copied = {word for line in re.findall(r"^COPY (.+)$", DOCKERFILE, flags=re.MULTILINE) for word in line.split()[:-1]}
    assert set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) <= copied
    assert {project["project"]["readme"], *project["project"]["license-files"], "pyproject.toml"} <= copied
    let_in = set(re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), flags=re.MULTILINE))
    assert copied == let_in
    assert all((ROOT / name).exists() for name in copied)
    (extra,) = re.findall(r"'\.\[(\w+)\]'", DOCKERFILE)
    assert extra in project["project"]["optional-dependencies"]


def test_every_setting_that_is_named_exists() -> None:
    for text in (EXAMPLE.read_text(encoding="utf-8"), (ROOT / "compose.yaml").read_text(encoding="utf-8"), DOCKERFILE):
        assert set(re.findall(r"INTENTLOOP_[A-Z_]+", text)) <= SETTINGS


def test_settings_of_the_example_are_ones_that_start() -> None:
    lines = [line.partition("=") for line in EXAMPLE.read_text(encoding="utf-8").splitlines() if "=" in line]
    given = {name.removeprefix("INTENTLOOP_").lower(): value for name, _, value in lines if name in SETTINGS and value}
    settings = Settings(_env_file=None, **given)  # type: ignore[arg-type]
    assert settings.url.split("@")[1] == "database:5432/intentloop"


def test_no_secret_stands_in_what_is_committed() -> None:
    for name, service in SERVICES.items():
        assert not [key for key in service.get("environment", {}) if re.search("PASSWORD|SECRET|URL", key)], name
        assert service["env_file"] == "deploy/intentloop.env"
    assert re.search(r"^POSTGRES_PASSWORD=$", EXAMPLE.read_text(), flags=re.MULTILINE)
    assert re.search(r"^INTENTLOOP_SECRET_KEY=$", EXAMPLE.read_text(), flags=re.MULTILINE)
    assert "*.env" in (ROOT / ".gitignore").read_text().splitlines()


def test_what_runs_waits_for_what_it_needs_and_says_whether_it_lives() -> None:
    assert SERVICES["migrate"]["depends_on"]["database"]["condition"] == "service_healthy"
    for name in ("service", "clock"):
        assert SERVICES[name]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
    for name in ("database", "service"):
        assert SERVICES[name]["healthcheck"]["test"]
    assert "/readyz" in str(SERVICES["service"]["healthcheck"])


def test_port_is_reached_from_this_machine_alone_and_every_volume_is_named() -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES["service"]["ports"])
    assert "ports" not in SERVICES["database"]
    mounted = {mount.split(":")[0] for service in SERVICES.values() for mount in service.get("volumes", [])}
    assert mounted == set(COMPOSE["volumes"])
