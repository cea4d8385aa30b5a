"""The files of `deploy/`: what they publish, what they keep secret, and that what they name exists."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import click
import dagster as dg
import pytest
import yaml
from dagster._config import validate_config

from dagster_project import instance
from dagster_project.build import SETTINGS
from dagster_project.settings_file import build_settings, read_settings
from tests.conftest import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
SECRET = re.compile(r"PASSWORD|SECRET|KEY|TOKEN", re.IGNORECASE)
VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)(:[-?][^}]*)?\}")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def values_of(value: Any) -> list[tuple[str, Any]]:
    """Every (key, leaf) below a YAML value."""
    if isinstance(value, dict):
        return [pair for k, v in value.items() for pair in (values_of(v) if isinstance(v, dict | list) else [(k, v)])]
    if isinstance(value, list):
        return [pair for v in value for pair in (values_of(v) if isinstance(v, dict | list) else [("", v)])]
    return []


def test_the_file_is_valid_by_the_compose_specification(compose):
    """With its variables filled in, by a parser that knows the specification; and the parser finds mistakes."""
    compose_spec = pytest.importorskip(
        "compose_spec", reason="the extra `dev` is not installed: it brings compose-spec"
    )

    def check(changed: dict[str, Any]) -> list[str]:
        text = VARIABLE.sub(lambda m: (m[2] or ":?")[2:] if (m[2] or "").startswith(":-") else "1", json.dumps(changed))
        parsed = compose_spec.PyCompose.from_json(text)
        parsed.validate()
        return parsed.service_names()

    assert set(check(compose)) == set(compose["services"])
    web = compose["services"]["web"]
    for wrong in ({"healthchek": {}}, {"ports": ["127.0.0.1:x:y"]}, {"depends_on": {"code": {"condition": "well"}}}):
        with pytest.raises(ValueError):
            check(compose | {"services": compose["services"] | {"web": web | wrong}})


def test_ports_are_published_on_loopback_only(compose):
    published = [p for s in compose["services"].values() for p in s.get("ports", [])]
    assert len(published) == 2
    assert all(isinstance(p, str) and re.fullmatch(r"127\.0\.0\.1:\$\{\w+:-\d+\}:\d+", p) for p in published)
    assert not any("network_mode" in s or s.get("privileged") for s in compose["services"].values())


def test_secrets_come_from_the_environment_and_have_no_default(compose):
    named = [(k, v) for s in compose["services"].values() for k, v in values_of(s.get("environment", {}))]
    secrets = {k: v for k, v in named if SECRET.search(k)}
    assert {"DAGSTER_PG_PASSWORD", "POSTGRES_PASSWORD", "AWS_SECRET_ACCESS_KEY", "MINIO_ROOT_PASSWORD"} <= set(secrets)
    for key, value in secrets.items():
        # Only the key of a language model may be missing: not everybody uses one.
        assert value == "${ITRYON_VLM_API_KEY:-}" or re.fullmatch(r"\$\{\w+:\?[^}]+\}", value), (key, value)


def test_every_variable_is_documented(compose):
    readme, example = (DEPLOY / "README.md").read_text(), (DEPLOY / "env.example").read_text()
    text = (DEPLOY / "compose.yaml").read_text()
    asked = {name for name, _ in VARIABLE.findall(text)}
    given = {k for s in compose["services"].values() for k, _ in values_of(s.get("environment", {}))}
    read = {v["env"] for v in _dictionaries(yaml.safe_load((DEPLOY / "dagster.yaml").read_text())) if set(v) == {"env"}}
    for name in asked | given | read:
        assert f"`{name}`" in readme, f"{name} is not in deploy/README.md"
    required = {name for name, rest in VARIABLE.findall(text) if rest.startswith(":?")}
    assert required == set(re.findall(r"^(\w+)=$", example, re.MULTILINE)) - {"ITRYON_VLM_API_KEY"}
    assert read <= set(compose["services"]["code"]["environment"]), "the instance finds no value for a variable"


def _dictionaries(value: Any) -> list[dict[str, Any]]:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return ([value] if isinstance(value, dict) else []) + [d for c in children for d in _dictionaries(c)]


@pytest.mark.parametrize("service", ["web", "daemon", "code"])
def test_commands_and_their_options_exist(compose, service):
    command = [str(part) for part in compose["services"][service]["command"]]
    _parse(command)
    health = [str(part) for part in compose["services"][service]["healthcheck"]["test"]]
    if health[1] != "python":
        _parse(health[1:])


def test_the_images_default_command_is_that_of_the_code_location(compose):
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    default = yaml.safe_load(next(line for line in lines if line.startswith("CMD ")).removeprefix("CMD "))
    _parse(default)
    assert default == compose["services"]["code"]["command"][: len(default)]


def _dockerfile() -> str:
    return (DEPLOY / "Dockerfile").read_text()


def _parse(command: list[str]) -> None:
    """Parse a command line with the program's own parser, without running it."""
    (script,) = [s for s in importlib.metadata.entry_points(group="console_scripts") if s.name == command[0]]
    # Their entry points are functions that call the `cli` of the same module.
    program = importlib.import_module(script.value.split(":")[0]).cli
    # Files of the image, by where they come from.
    copied = dict(reversed(p) for p in re.findall(r"^COPY (?:--chown=\S+ )?(deploy/\S+) (/\S+)$", _dockerfile(), re.M))
    arguments = [str(REPOSITORY / copied[a]) if a in copied else a for a in command[1:]]
    while isinstance(program, click.Group):
        found = program.get_command(click.Context(program), arguments[0])
        assert found is not None, f"{command}: there is no {arguments[0]}"
        program, arguments = found, arguments[1:]
    program.make_context(command[0], arguments)


def test_a_wheel_has_what_dagster_reads():
    """Of what is beside the packages, only what is named gets into it."""
    wheel = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    package = Path(instance.__file__).parent
    assert package.name in wheel["packages"]
    assert instance.CONFIGURATION.parent == package and instance.CONFIGURATION.is_file()
    assert wheel["force-include"][instance.WORKSPACE] == f"{package.name}/{instance.WORKSPACE}"
    assert yaml.safe_load(instance.workspace().read_text())["load_from"]


def test_the_image_holds_the_weights_where_no_volume_hides_them(compose, values):
    """Pods of runs start with an empty cache, and no run fetches anything."""
    last = _dockerfile().rsplit("\nFROM ", 1)[1]
    folder = re.search(r"ITRYON_WEIGHTS=(\S+)", last)[1]
    assert folder in re.search(r"install -d -o itryon -g itryon ((?:\\\n|.)+)", last)[1].split()
    assert last.index("ITRYON_WEIGHTS=") < last.index("\nUSER itryon") < last.index("itryon weights\n")
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    mounts = [v.split(":")[1] for v in compose["services"]["code"]["volumes"]]
    mounts += [m["mountPath"] for m in deployment["volumeMounts"]]
    assert not [m for m in mounts if Path(folder).is_relative_to(m)]


def test_settings_of_all_runs_reach_the_sensors(compose, values):
    """Retraining is turned on by them, and only the environment carries them to a code location."""
    code, timeout = compose["services"]["code"], "DAGSTER_SENSOR_GRPC_TIMEOUT_SECONDS"
    (mounted,) = code["configs"]
    assert mounted["target"] == code["environment"]["ITRYON_CONFIG"]
    file = DEPLOY / compose["configs"][mounted["source"]]["file"]
    assert "retraining" in build_settings(read_settings(file), SETTINGS, "a deployment")
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    given = {e["name"]: e.get("value") for e in deployment["env"]}
    (folder,) = [m["mountPath"] for m in deployment["volumeMounts"] if m["name"] == "config"]
    (config,) = [v["configMap"]["name"] for v in deployment["volumes"] if v["name"] == "config"]
    assert given["ITRYON_CONFIG"] == f"{folder}/{file.name}"
    assert f"configmap {config} --from-file=deploy/{file.name}" in (DEPLOY / "README.md").read_text()
    daemons = (values["dagsterDaemon"]["env"], compose["services"]["daemon"]["environment"])
    assert {env[timeout] for env in (given, code["environment"], *daemons)} == {"300"}


def test_services_wait_for_what_they_need_and_say_how_they_are(compose):
    services = compose["services"]
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            expected = "service_completed_successfully" if needed == "bucket" else "service_healthy"
            assert how == {"condition": expected}, (name, needed)
        assert "healthcheck" in service or name == "bucket"
    mounted = {v.split(":")[0] for s in services.values() for v in s.get("volumes", [])}
    assert mounted == set(compose["volumes"])


def test_the_web_server_finds_the_code_location(compose):
    (entry,) = yaml.safe_load((DEPLOY / "workspace.yaml").read_text())["load_from"]
    server, command = entry["grpc_server"], compose["services"]["code"]["command"]
    assert server["host"] in compose["services"]
    assert str(server["port"]) == command[command.index("--port") + 1]
    assert server["location_name"] == command[command.index("--location-name") + 1]
    assert importlib.util.find_spec(command[command.index("--module-name") + 1])


def test_the_image_is_built_from_files_that_exist_and_does_not_run_as_root(compose):
    build = compose["services"]["code"]["build"]
    context = (DEPLOY / build["context"]).resolve()
    text = (context / build["dockerfile"]).read_text()
    copied = [
        source
        for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE)
        if "--from" not in line
        for source in [p for p in line.split() if not p.startswith("--")][:-1]
    ]
    assert {"pipelines", "assets", "models", "dagster_project", "deploy/dagster.yaml"} <= set(copied)
    allowed = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().split() if line.startswith("!")}
    for source in copied:
        assert (context / source).exists(), source
        assert source in allowed, f"{source} is kept out of the build by Dockerfile.dockerignore"
    assert text.count("\nFROM ") == 2
    last = text.rsplit("\nFROM ", 1)[1]
    assert re.search(r"^USER itryon$", last, re.MULTILINE) and "USER root" not in last
    # The mounted folders belong to that user, or it could not write there.
    made = re.search(r"install -d -o itryon -g itryon ((?:\\\n|.)+)", last)
    assert made is not None
    mounts = {v.split(":")[1] for v in compose["services"]["code"]["volumes"]}
    assert mounts <= set(made[1].split())


# --- Kubernetes ---


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "kubernetes" / "values.yaml").read_text())


def test_the_charts_values_hold_no_secret_and_open_nothing(values):
    # Names of secrets and of what is in them.
    names = ("postgresqlSecretName", "key")
    for key, value in values_of(values):
        assert not (SECRET.search(key) and isinstance(value, str) and key not in names), key
    assert "postgresqlPassword" not in values["postgresql"]
    assert values["generatePostgresqlPasswordSecret"] is False
    assert values["dagsterWebserver"]["service"]["type"] == "ClusterIP" and not values["ingress"]["enabled"]


def test_the_values_fit_the_charts_schema(values):
    """`ITRYON_CHART=FOLDER pytest tests/deploy -k schema` after `helm pull --untar dagster/dagster`."""
    if not (folder := os.environ.get("ITRYON_CHART")):
        pytest.skip("Dagster's chart ships in no package: ITRYON_CHART names a folder with its values.schema.json")
    jsonschema = pytest.importorskip("jsonschema", reason="the extra `dev` is not installed: it brings jsonschema")
    schema = json.loads((Path(folder) / "values.schema.json").read_text())
    own = yaml.safe_load((Path(folder) / "values.yaml").read_text())
    validator = jsonschema.Draft7Validator(without_remote(schema))
    # As helm does it: over the chart's own values. Keys that neither knows are mistyped.
    assert not [f"{e.json_path}: {e.message}" for e in validator.iter_errors(merged(own, values))]
    free = ("additionalInstanceConfig", "runLauncher", "dagster-user-deployments")
    assert not [k for k in keys_of({k: v for k, v in values.items() if k not in free}) if k not in keys_of(own)]


def without_remote(schema: Any) -> Any:
    """The schema without what is described elsewhere on the net: Kubernetes' own objects."""
    if isinstance(schema, list):
        return [without_remote(part) for part in schema]
    if not isinstance(schema, dict) or str(schema.get("$ref", "")).startswith("http"):
        return {} if isinstance(schema, dict) else schema
    return {key: without_remote(part) for key, part in schema.items()}


def merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Dictionaries one over the other, at all depths."""
    both = {k for k in under.keys() & over.keys() if isinstance(under[k], dict) and isinstance(over[k], dict)}
    return under | over | {k: merged(under[k], over[k]) for k in both}


def keys_of(value: dict[str, Any], path: str = "") -> set[str]:
    """Paths of all keys."""
    found = set()
    for key, inner in value.items():
        found |= {f"{path}.{key}"} | (keys_of(inner, f"{path}.{key}") if isinstance(inner, dict) else set())
    return found


def test_every_secret_that_the_values_name_is_made_in_the_readme(values):
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    named = {values["global"]["postgresqlSecretName"]} | {s["name"] for s in deployment["envSecrets"]}
    refs = {e["name"]: e["valueFrom"]["secretKeyRef"] for e in deployment["env"] if "valueFrom" in e}
    assert refs["ITRYON_VLM_API_KEY"]["optional"] and not [s for s in deployment["envSecrets"] if set(s) != {"name"}]
    named |= {ref["name"] for ref in refs.values()}
    made = set(re.findall(r"secret generic (\S+)", (DEPLOY / "README.md").read_text()))
    assert named == made and len(named) == 3


def test_training_in_a_pod_is_told_to_need_a_shared_folder(values):
    """The values put the lake into an object store, which the trainer's launchers for clusters refuse."""
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    (lake,) = [e["value"] for e in deployment["env"] if e["name"] == "ITRYON_LAKE"]
    assert "://" in lake
    for page in (DEPLOY / "README.md", REPOSITORY / "docs" / "scale.md"):
        assert re.search(r"`pipes: \{backend: kubernetes\}`\s+(is refused|refuses)", page.read_text()), page


def test_runs_get_what_the_code_location_has(values, compose):
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    assert deployment["includeConfigInLaunchedRuns"]["enabled"]
    code = compose["services"]["code"]["command"]
    module = code[code.index("--module-name") + 1]
    assert deployment["dagsterApiGrpcArgs"][:2] == ["--module-name", module]
    names = {v["name"] for v in deployment["volumes"]}
    assert {m["name"] for m in deployment["volumeMounts"]} == names
    uid = int(re.search(r"--uid (\d+)", (DEPLOY / "Dockerfile").read_text())[1])
    run = values["runLauncher"]["config"]["k8sRunLauncher"]["runK8sConfig"]["containerConfig"]["securityContext"]
    assert run["runAsUser"] == deployment["securityContext"]["runAsUser"] == uid


def test_runs_are_not_held_to_the_memory_of_the_code_location(values):
    """What a deployment has, its runs inherit over what the launcher gives them."""
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    assert deployment["includeConfigInLaunchedRuns"]["enabled"] and "resources" not in deployment
    given = values["runLauncher"]["config"]["k8sRunLauncher"]["runK8sConfig"]["containerConfig"]["resources"]
    assert given["limits"]["memory"] == "24Gi"


# --- Ray ---


@pytest.fixture(scope="module")
def ray() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "ray" / "dagster.yaml").read_text())


def test_ray_is_shown_no_secret(ray, compose):
    """Its dashboard shows the variables that jobs are started with."""
    passed = ray["run_launcher"]["config"]["ray"]["env_vars"]
    assert len(passed) == len(set(passed)) and not [name for name in passed if SECRET.search(name)]
    given = set(compose["services"]["code"]["environment"])
    secrets = {name for name in given if SECRET.search(name)}
    of_the_location = {"DAGSTER_CURRENT_IMAGE", "DAGSTER_SENSOR_GRPC_TIMEOUT_SECONDS"}
    assert given - secrets <= {*passed, *of_the_location}, "what a deployment sets does not reach its runs"
    readme = (DEPLOY / "README.md").read_text()
    assert all(f"`{name}`" in readme for name in secrets)


def test_rays_launcher_is_configured_as_it_wants(ray):
    """Where the extra is installed."""
    dagster_ray = pytest.importorskip("dagster_ray", reason="needs pip install 'itryon-pipeline[ray]'")
    launcher = ray["run_launcher"]
    assert (launcher["module"], launcher["class"]) == ("dagster_ray", dagster_ray.RayRunLauncher.__name__)
    shape = dg.Field(dagster_ray.RayRunLauncher.config_type()).config_type
    checked = validate_config(shape, launcher["config"])
    assert checked.success, checked.errors


def test_both_instances_keep_the_same_limits_as_a_single_machine(values):
    here = yaml.safe_load(Path(REPOSITORY / "dagster_project" / "dagster.yaml").read_text())
    compose = yaml.safe_load((DEPLOY / "dagster.yaml").read_text())
    assert compose["concurrency"]["pools"] == here["concurrency"]["pools"]
    assert compose["run_retries"] == here["run_retries"] == values["additionalInstanceConfig"]["run_retries"]
    assert values["additionalInstanceConfig"]["concurrency"]["pools"] == here["concurrency"]["pools"]
    assert compose["run_monitoring"] == here["run_monitoring"]
