"""Image, compose file and manifest: valid by their schemas, and in keeping with what honed does."""

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from honed.config import Config, load_config

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
MANIFEST = list(yaml.safe_load_all((DEPLOY / "kubernetes/sidecar.yaml").read_text()))
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
USER = 10001


def _pod() -> dict[str, Any]:
    """The pod of the manifest's deployment."""
    pod: dict[str, Any] = MANIFEST[-1]["spec"]["template"]["spec"]
    return pod


def _sidecars() -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in _pod()["initContainers"]}


# ---------------------------------------------------------------- schemas


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_compose_files_fit_the_compose_specification(name: str) -> None:
    """A mistyped key is refused by it."""
    schema = json.loads(
        (files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json").read_text()
    )
    found = yaml.safe_load((DEPLOY / name).read_text())
    jsonschema.validate(found, schema)
    found["services"]["gateway"]["healtcheck"] = {}
    with pytest.raises(jsonschema.ValidationError, match="healtcheck"):
        jsonschema.validate(found, schema)


@pytest.mark.parametrize("version", ["1.29", "1.37"])
@pytest.mark.parametrize("document", MANIFEST, ids=lambda document: document["kind"])
def test_the_manifest_fits_the_schemas_of_kubernetes(
    document: dict[str, Any], version: str
) -> None:
    """From the first version with native sidecars on; strictly, so that a mistyped key is refused."""
    kubernetes_validate.validate(document, version, strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document | {"sepc": {}}, version, strict=True)


# ---------------------------------------------------------------- what they say


def _loaded(text: str, folder: Path) -> Config:
    path = folder / "config.toml"
    path.write_text(text)
    return load_config(path)


def test_sidecars_start_before_the_agents_and_are_probed(tmp_path: Path) -> None:
    """Each has a startup and a liveness probe; probes are given more time than they take by themselves."""
    sidecars = _sidecars()
    assert set(sidecars) == {"gateway", "daemon"}
    for each in sidecars.values():
        assert each["restartPolicy"] == "Always"
        assert each["startupProbe"]
        assert each["livenessProbe"]["failureThreshold"] >= 3
        probes = [each[kind] for kind in each if kind.endswith("Probe")]
        assert all(probe["timeoutSeconds"] > 5 for probe in probes)  # of `honed health`
    config = _loaded(MANIFEST[0]["data"]["config.toml"], tmp_path)
    grace = config.serve.drain_timeout + config.train.stop_grace
    assert _pod()["terminationGracePeriodSeconds"] > grace.total_seconds()


def test_everything_in_the_pod_runs_as_the_user_that_owns_the_sockets() -> None:
    """Only the owner of a socket may connect; nobody is root, and nobody can become it."""
    assert _pod()["securityContext"]["runAsUser"] == USER
    assert _pod()["securityContext"]["fsGroup"] == USER
    for each in [*_pod()["initContainers"], *_pod()["containers"]]:
        assert "runAsUser" not in each["securityContext"]
        assert each["securityContext"]["allowPrivilegeEscalation"] is False
        assert each["securityContext"]["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("place", ["manifest", "compose"])
def test_sockets_are_on_the_volume_that_is_shared_and_data_on_the_one_that_stays(
    place: str, tmp_path: Path
) -> None:
    """Feed, control and gateway socket where the agents mount them; both processes see the adapters."""
    if place == "manifest":
        config = _loaded(MANIFEST[0]["data"]["config.toml"], tmp_path)
        mounts = [
            {mount["mountPath"]: mount["name"] for mount in each["volumeMounts"]}
            for each in _sidecars().values()
        ]
        (agents,) = _pod()["containers"]
        assert {"name": "sockets", "mountPath": "/run/honed"} in agents["volumeMounts"]
        feed = next(each["value"] for each in agents["env"] if each["name"] == "HONED_FEED")
        assert feed == str(config.feed_socket)
    else:
        config = load_config(ROOT / "configs/sidecar.toml")
        split = [
            [volume.rsplit(":", 2 if volume.endswith(":ro") else 1) for volume in each["volumes"]]
            for each in COMPOSE["services"].values()
        ]
        mounts = [{parts[1]: parts[0] for parts in volumes} for volumes in split]
    for found in mounts:
        assert found["/run/honed"] == "sockets"
        assert found["/var/lib/honed"] == "data"
    for socket in (config.feed_socket, config.control_socket, config.serve_socket):
        assert socket.is_relative_to("/run/honed")
    assert config.data_dir.is_relative_to("/var/lib/honed")


def _health_commands() -> list[tuple[str, ...]]:
    found = [each["healthcheck"]["test"][1:] for each in COMPOSE["services"].values()]
    for each in _sidecars().values():
        found += [each[kind]["exec"]["command"] for kind in each if kind.endswith("Probe")]
    return sorted(set(map(tuple, found)))


@pytest.mark.parametrize("command", _health_commands(), ids=" ".join)
def test_a_probe_is_a_command_that_says_when_nothing_runs(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    """3: nobody listens (2 would be wrong usage)."""
    assert command[0] == "honed"
    variables = {"HONED__SCENARIO": "a", "HONED__DATA_DIR": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "honed", *command[1:]],
        env={"PATH": os.environ["PATH"]} | variables,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, "nobody listens" in done.stderr) == (3, True), done.stderr


# ---------------------------------------------------------------- the image


def _instructions() -> list[tuple[str, str]]:
    """Instruction and argument of each line of the Containerfile, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Containerfile").read_text(), flags=re.MULTILINE)
    joined = re.sub(r"\\\n\s*", " ", text)
    lines = [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]
    return [(word, rest) for word, rest in lines]


def test_the_image_is_built_from_what_is_here_and_runs_without_privileges() -> None:
    """Every copied path exists; the last stage has a numeric user, no build tools and a health check."""
    instructions = _instructions()
    known = [
        "ARG",
        "FROM",
        "WORKDIR",
        "RUN",
        "COPY",
        "ENV",
        "USER",
        "VOLUME",
        "EXPOSE",
        "HEALTHCHECK",
        "ENTRYPOINT",
        "CMD",
    ]
    assert {word for word, _ in instructions} <= set(known)
    assert instructions[0][0] == "ARG"
    starts = [n for n, (word, _) in enumerate(instructions) if word == "FROM"]
    assert len(starts) == 2
    build, last = instructions[starts[0] : starts[1]], instructions[starts[1] :]
    copied = [path for word, rest in build if word == "COPY" for path in rest.split()[:-1]]
    assert copied
    assert all((ROOT / path).exists() for path in copied)
    kept = (DEPLOY / "Containerfile.dockerignore").read_text().splitlines()
    assert {f"!{path}" for path in copied} <= set(kept)
    assert [rest for word, rest in last if word == "COPY"] == ["--from=build /opt/honed /opt/honed"]
    of_last = dict(last)
    assert of_last["USER"] == f"{USER}:{USER}"
    assert of_last["EXPOSE"] == str(Config.model_fields["serve"].default.port)
    for word in ("ENTRYPOINT", "CMD", "VOLUME"):
        assert isinstance(json.loads(of_last[word]), list)  # the exec form: signals reach honed
    assert "honed health daemon && honed health gateway" in of_last["HEALTHCHECK"]
    after_user = [word for word, _ in last[[w for w, _ in last].index("USER") :]]
    assert "RUN" not in after_user


def test_the_image_installs_extras_that_exist_and_names_no_registry() -> None:
    """Base images come from wherever the builder is told to look."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    defaults = [
        rest.partition("=")[2] for word, rest in _instructions() if rest.startswith("EXTRAS=")
    ]
    assert defaults == ["train,serve"]
    assert set(defaults[0].split(",")) <= set(extras)
    images = [rest.split()[0] for word, rest in _instructions() if word == "FROM"]
    images += [each["image"] for each in COMPOSE["services"].values()]
    images += [each["image"] for each in [*_pod()["initContainers"], *_pod()["containers"]]]
    assert all("." not in image.partition("/")[0].partition(":")[0] for image in images)
