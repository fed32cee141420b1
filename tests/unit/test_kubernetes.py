"""Goal: the manifests for Kubernetes name what the code has, and fit KEDA and each other.

Method: they are read as kubectl reads them. A schema states which fields a ScaledObject of KEDA
2.12 to 2.20 has, with every other one refused; names, ports, paths, settings and times are
compared with the code that has them. No cluster is there: nothing of it was applied to one.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped] # it has no types of its own
import pytest
import yaml

from agent import dispatch, turnstile
from agent.config.settings import FILE_SUFFIX, ROWS
from agent.gateway import server as gateway_server
from agent.site import server_config
from contracts import subjects

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "ops" / "kubernetes"
PAGE = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
OTHERS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
Manifest = dict[str, Any]

TEXT = {"type": "string", "minLength": 1}
COUNT = {"type": "integer", "minimum": 0}


def shape(required: tuple[str, ...] = (), **fields: Any) -> Manifest:
    return {
        "type": "object",
        "properties": fields,
        "required": list(required),
        "additionalProperties": False,
    }


POLICY = shape(
    ("type", "value", "periodSeconds"),
    type={"enum": ["Pods", "Percent"]},
    value={"type": "integer", "minimum": 1},
    periodSeconds={"type": "integer", "minimum": 1, "maximum": 1800},
)
SCALING = shape(
    stabilizationWindowSeconds={"type": "integer", "minimum": 0, "maximum": 3600},
    selectPolicy={"enum": ["Min", "Max", "Disabled"]},
    policies={"type": "array", "items": POLICY, "minItems": 1},
)
LANE = shape(
    ("natsServerMonitoringEndpoint", "account", "stream", "consumer", "lagThreshold"),
    natsServerMonitoringEndpoint={"type": "string", "pattern": r"^[a-z0-9.-]+:\d+$"},
    account=TEXT,
    stream=TEXT,
    consumer=TEXT,
    lagThreshold={"type": "string", "pattern": r"^[1-9]\d*$"},
    activationLagThreshold={"type": "string", "pattern": r"^\d+$"},
    useHttps={"enum": ["true", "false"]},
)
TRIGGER = shape(
    ("type", "metadata"),
    type={"const": "nats-jetstream"},
    name={"type": "string", "pattern": r"^[A-Za-z_][A-Za-z0-9_]*$"},
    metadata=LANE,
    metricType={"enum": ["AverageValue", "Value"]},
    useCachedMetrics={"type": "boolean"},
    authenticationRef=shape(("name",), name=TEXT, kind=TEXT),
)
SCALED_OBJECT = shape(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "keda.sh/v1alpha1"},
    kind={"const": "ScaledObject"},
    metadata={"type": "object"},
    spec=shape(
        ("scaleTargetRef", "triggers"),
        scaleTargetRef=shape(
            ("name",), name=TEXT, kind=TEXT, apiVersion=TEXT, envSourceContainerName=TEXT
        ),
        pollingInterval=COUNT,
        cooldownPeriod=COUNT,
        initialCooldownPeriod=COUNT,
        idleReplicaCount=COUNT,
        minReplicaCount=COUNT,
        maxReplicaCount=COUNT,
        fallback=shape(
            ("failureThreshold", "replicas"), failureThreshold=COUNT, replicas=COUNT, behavior=TEXT
        ),
        triggers={"type": "array", "items": TRIGGER, "minItems": 1},
        advanced=shape(
            restoreToOriginalReplicaCount={"type": "boolean"},
            scalingModifiers=shape(
                formula=TEXT,
                target={"type": "string", "pattern": r"^\d+(\.\d+)?$"},
                activationTarget={"type": "string", "pattern": r"^\d+(\.\d+)?$"},
                metricType={"enum": ["AverageValue", "Value"]},
            ),
            horizontalPodAutoscalerConfig=shape(
                name=TEXT, behavior=shape(scaleUp=SCALING, scaleDown=SCALING)
            ),
        ),
    ),
)


def manifests() -> list[Manifest]:
    texts = (path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.yaml")))
    return [one for text in texts for one in yaml.safe_load_all(text)]


def the(kind: str, name: str) -> Manifest:
    found = [one for one in manifests() if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    assert len(found) == 1, f"{kind} {name}: {len(found)}"
    return found[0]


def pod(name: str) -> Manifest:
    found: Manifest = the("Deployment", name)["spec"]["template"]["spec"]
    return found


def containers() -> Iterator[Manifest]:
    """Yield every container that runs mmg."""
    for one in manifests():
        spec = one["spec"]["template"]["spec"] if one["kind"] in ("Deployment", "Job") else {}
        yield from (each for each in spec.get("containers", ()) if "/mmg:" in each["image"])


def settings_of(container: Manifest) -> dict[str, str]:
    shared = the("ConfigMap", "mmg")["data"]
    own = {one["name"]: one.get("value", "") for one in container.get("env", ())}
    return {**shared, **own}


def commands(container: Manifest) -> list[str]:
    return [
        container[probe]["exec"]["command"][-1]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe")
    ]


def test_the_scaled_object_has_the_fields_that_keda_knows():
    jsonschema.validate(the("ScaledObject", "mmg-worker"), SCALED_OBJECT)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "minReplicas"), 1),
        (("spec", "maxReplicaCount"), "8"),
        (("spec", "triggers", 0, "metadata", "durable"), "lane-low"),
        (("spec", "triggers", 0, "metadata", "lagThreshold"), 4),
        (("spec", "advanced", "scalingModifiers", "target"), 4),
    ],
)
def test_the_schema_refuses_what_keda_does_not_know(path, value):
    scaled = the("ScaledObject", "mmg-worker")
    place: Any = scaled
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(scaled, SCALED_OBJECT)


def test_each_lane_is_counted_once_and_their_sum_decides():
    spec = the("ScaledObject", "mmg-worker")["spec"]
    assert spec["scaleTargetRef"]["name"] == the("Deployment", "mmg-worker")["metadata"]["name"]
    lanes = [one["metadata"]["consumer"] for one in spec["triggers"]]
    assert lanes == [subjects.durable(priority) for priority in subjects.LANES]
    for one in spec["triggers"]:
        assert one["name"] == one["metadata"]["consumer"].removeprefix("lane-")
        assert one["metadata"]["stream"] == subjects.STREAM_REQUESTS
        assert one["metadata"]["account"] == server_config.OURS
    modifiers = spec["advanced"]["scalingModifiers"]
    added = ast.walk(ast.parse(modifiers["formula"], mode="eval"))
    assert sorted(node.id for node in added if isinstance(node, ast.Name)) == sorted(
        one["name"] for one in spec["triggers"]
    )
    assert {one["metadata"]["lagThreshold"] for one in spec["triggers"]} == {modifiers["target"]}
    assert spec["minReplicaCount"] <= spec["fallback"]["replicas"] <= spec["maxReplicaCount"]


def test_the_number_of_workers_is_for_keda_alone():
    assert "replicas" not in the("Deployment", "mmg-worker")["spec"]


def test_every_setting_is_one_that_mmg_has_with_a_value_that_it_takes():
    rows = {row.name: row for row in ROWS}
    seen = set()
    for container in containers():
        for name, value in settings_of(container).items():
            seen.add(name)
            row = rows[name.removesuffix(FILE_SUFFIX) if name not in rows else name]
            if row.parse is not None and value and name in rows:
                row.parse(value)  # Raises what mmg would say.
    assert {"MMG_NATS_URL", "MMG_REPLICAS", "MMG_WORKER_NAME", "MMG_DRAIN_S"} <= seen


def test_commands_are_those_of_mmg():
    assert sorted(one["args"][0] for one in containers()) == ["gateway", "provision", "worker"]


def test_a_pod_that_goes_has_the_time_to_finish_what_it_draws():
    worker = next(one for one in containers() if one["args"] == ["worker"])
    settings = settings_of(worker)
    timeout = next(row.default for row in ROWS if row.name == "MMG_RUN_TIMEOUT_S")
    assert float(settings["MMG_DRAIN_S"]) >= float(timeout or 0)
    rest_s = 2 * dispatch.INTERRUPT_S + turnstile.SETTLE_PATIENCE_S
    grace_s = pod("mmg-worker")["terminationGracePeriodSeconds"]
    assert grace_s >= float(settings["MMG_DRAIN_S"]) + rest_s
    comfyui = pod("mmg-worker")["initContainers"][0]
    assert comfyui["restartPolicy"] == "Always", "or it would be gone before the worker has drawn"
    assert comfyui["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_probes_ask_where_something_answers():
    defaults = {row.name: row.default for row in ROWS}
    worker, gateway = pod("mmg-worker")["containers"][0], pod("mmg-gateway")["containers"][0]
    for command in commands(worker):
        compile(command, "a probe", "exec")
        assert f"127.0.0.1:{defaults['MMG_WORKER_HTTP_PORT']}/healthz" in command
    assert "HTTPError" in commands(worker)[1], "a worker that takes nothing is not to be killed"
    assert "HTTPError" not in commands(worker)[2], "it is not ready, though"
    port = int(defaults["MMG_HTTP_PORT"] or 0)
    assert gateway["ports"] == [{"name": "http", "containerPort": port}]
    text = Path(gateway_server.__file__).read_text(encoding="utf-8")
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        asked = gateway[probe]["httpGet"]
        assert asked["port"] == "http"
        assert f'web.get("{asked["path"]}"' in text
    service = the("Service", "mmg-gateway")["spec"]["ports"][0]
    assert (service["port"], service["targetPort"]) == (port, "http")


def test_selectors_find_their_pods():
    for name in ("mmg-worker", "mmg-gateway"):
        labels = the("Deployment", name)["spec"]["template"]["metadata"]["labels"]
        assert the("Deployment", name)["spec"]["selector"]["matchLabels"] == labels
        assert the("PodDisruptionBudget", name)["spec"]["selector"]["matchLabels"] == labels
    labels = the("Deployment", "mmg-gateway")["spec"]["template"]["metadata"]["labels"]
    assert the("Service", "mmg-gateway")["spec"]["selector"] == labels


def test_every_volume_is_declared_and_every_secret_is_told_of():
    for one in manifests():
        if one["kind"] not in ("Deployment", "Job"):
            continue
        spec = one["spec"]["template"]["spec"]
        declared = {volume["name"] for volume in spec["volumes"]}
        for container in (*spec.get("initContainers", ()), *spec["containers"]):
            assert {mount["name"] for mount in container["volumeMounts"]} <= declared
        used = [volume.get("secret", {}).get("secretName") for volume in spec["volumes"]]
        used += [
            source.get("secretRef", {}).get("name")
            for container in spec["containers"]
            for source in container["envFrom"]
        ]
        claims = [volume.get("persistentVolumeClaim", {}) for volume in spec["volumes"]]
        for name in filter(None, (*used, *(claim.get("claimName") for claim in claims))):
            assert name in PAGE, f"docs/kubernetes.md does not say how to make {name}"
    assert all(name in PAGE for name in OTHERS)


def test_nothing_of_ours_runs_as_root_or_may_become_it():
    for one in containers():
        context = one["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
    for name in ("mmg-worker", "mmg-gateway"):
        assert pod(name)["securityContext"]["runAsNonRoot"] is True
        assert pod(name)["automountServiceAccountToken"] is False
    user = pod("mmg-worker")["securityContext"]["runAsUser"]
    assert f"--uid {user} " in (ROOT / "ops" / "Dockerfile").read_text(encoding="utf-8")


def test_the_page_says_that_it_was_not_run():
    assert "not run on a cluster" in PAGE
