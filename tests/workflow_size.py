"""How large the object becomes in which Argo keeps a run: all its nodes, compressed, beside the workflow's own part.

Kubernetes stores no object of more than about 1 MB; a run that outgrows it ends in an error, and cannot be retried.
The rules are those seen on Kubeflow Pipelines 2.17 with Argo 4.0 (one task is six nodes, one iteration six more; a
node repeats its inputs), and are checked against nodes recorded there.
"""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import UUID

import yaml

WORKFLOW = "batch-segmentation-qrw2g"
RUN = UUID(int=0x69761E974A94FFB9E5FE8429F3F8B7C)
STORE = {
    "Provider": "minio",
    "Params": {
        "accessKeyKey": "accesskey",
        "disableSSL": "true",
        "endpoint": "seaweedfs.kubeflow:9000",
        "fromEnv": "false",
        "maxRetries": "5",
        "region": "minio",
        "secretKeyKey": "secretkey",
        "secretName": "mlpipeline-minio-artifact",
    },
}
LAUNCHER = [
    *("--pod_name", "$(KFP_POD_NAME)", "--pod_uid", "$(KFP_POD_UID)"),
    *("--ml_pipeline_server_address", "ml-pipeline.kubeflow.svc.cluster.local"),
    *("--ml_pipeline_server_port", "8887"),
    *("--mlmd_server_address", "metadata-grpc-service.kubeflow.svc.cluster.local"),
    *("--mlmd_server_port", "8080", "--publish_logs", "true"),
    *("--ml_pipeline_tls_enabled=false", "--metadata_tls_enabled=false", "--ca_cert_path", ""),
    *("--cache_disabled=false", "--log_level", "1", "--"),
]
#: Of a workflow, beside its nodes and what it has of the package: templates, labels, managed fields. The recorded run's
#: own part was 93 KB.
TEMPLATES = 35_000
#: Whole objects of recorded runs were so much larger than their nodes compress to here: each pod is named once more in
#: the status, times differ, and Go's gzip is quicker than Python's.
STORED = 1.25

#: What steps hand over, of a long name each; and parameters that people choose.
METADATA: dict[str, dict[str, Any]] = {
    "dataset": {
        "listed": 10_000_000,
        "skipped": 9_000_000,
        "taken_over": 9_000_000,
        "left": 9_000_000,
        "ignored": 9_000_000,
        "shards": 24,
        "digest": "d" * 32,
    },
    "encoded_prompts": {"configuration": "c" * 16},
    "model": {"source": f"s3://{'m' * 60}/{'n' * 120}", "revision": "r" * 40, "digest": "d" * 32},
    "views": {"views": 100_000},
    "probabilities": {"maps": 1_000_000},
    "masks": {"masks": 1_000_000},
}
PARAMETERS = {"output_uri": f"s3://{'o' * 60}/{'p' * 120}", "source_uri": f"s3://{'s' * 60}/{'t' * 120}"}

Node = dict[str, Any]


class Workflow:
    """The nodes of a run that has ended well.

    Args:
        package: what is compiled, as YAML.
        shards: iterations of each loop.
        metadata: of artifacts, by the name of the output.
        parameters: of the run, where they are not the defaults.
    """

    def __init__(
        self,
        package: str,
        shards: int,
        metadata: Mapping[str, Mapping[str, Any]],
        parameters: Mapping[str, Any],
    ) -> None:
        self._spec, *platform = yaml.safe_load_all(package)
        self._kubernetes = (
            platform[0]["platforms"]["kubernetes"]["deploymentSpec"]["executors"] if platform else {}
        )
        self._shards, self._metadata = shards, metadata
        definitions = self._spec["root"]["inputDefinitions"]["parameters"]
        self._values = {name: one.get("defaultValue") for name, one in definitions.items()} | dict(parameters)
        root = f"{WORKFLOW}(0)"
        self.nodes: list[Node] = [
            _node("DAG", root, "entrypoint", {}),
            _node("Retry", WORKFLOW, "entrypoint", {}),
        ]
        self._dag(self._spec["root"], f"{root}.root", {"component": _text(self._spec["root"])})
        self._tasks(self._spec["root"]["dag"], f"{root}.root(0)")

    def compressed(self) -> int:
        """Bytes of the nodes as Argo stores them; by id, and so in no order."""
        nodes = {node["id"]: node for node in sorted(self.nodes, key=lambda node: str(node["id"]))}
        return len(base64.b64encode(gzip.compress(_text(nodes).encode(), 6)))

    def size(self) -> int:
        """Bytes of the whole object."""
        texts = [
            _text(part)
            for part in (
                *self._spec["components"].values(),
                *self._spec["deploymentSpec"]["executors"].values(),
                *self._kubernetes.values(),
                self._spec["root"],
            )
        ]
        return round(self.compressed() * STORED) + TEMPLATES + len(_text(texts))

    def _tasks(self, dag: Any, path: str) -> None:
        for name, task in dag["tasks"].items():
            component = self._spec["components"][task["componentRef"]["name"]]
            if "dag" not in component:
                self._executor(name, task, component, path)
                continue
            given = {"component": _text(component), "task": _text(task), "task-name": name}
            self._dag(component, f"{path}.{name}", given)
            for i in range(self._shards) if "parameterIterator" in task else ():
                # for each iteration: the iteration's two, its driver's two, and two of the inner DAG
                at = f"{path}.{name}(0).iteration-iterations({i}:{i})"
                for kind, place in (("Retry", at), ("DAG", f"{at}(0)")):
                    index = {"parent-dag-id": "5", "iteration-index": str(i)}
                    self.nodes.append(_node(kind, place, f"{task['componentRef']['name']}-iteration", index))
                inside = {**given, "runtime-config": "", "driver-type": "DAG", "iteration-index": str(i)}
                self._dag(component, f"{at}(0).iteration-item", inside)
                self._tasks(component["dag"], f"{at}(0).iteration-item(0)")
            if "parameterIterator" not in task:
                self._tasks(component["dag"], f"{path}.{name}(0)")

    def _dag(self, component: Any, path: str, given: Mapping[str, str]) -> None:
        """A driver's two nodes and the two of a DAG."""
        outputs = {"execution-id": "6", "iteration-count": "0", "condition": "nil"}
        for kind, suffix in (("Retry", ""), ("Pod", "(0)")):
            self.nodes.append(_node(kind, f"{path}-driver{suffix}", "system-dag-driver", given, outputs))
        for kind, suffix in (("Retry", ""), ("DAG", "(0)")):
            self.nodes.append(_node(kind, f"{path}{suffix}", "comp-for-loop-1", {"parent-dag-id": "6"}))

    def _executor(self, name: str, task: Any, component: Any, path: str) -> None:
        """A task's six nodes."""
        label = component["executorLabel"]
        container = self._spec["deploymentSpec"]["executors"][label]["container"]
        patch = {"pod-spec-patch": self._patch(name, task, component, container, f"{path}.{name}")}
        given = {
            "component": _text(component),
            "task": _text(task),
            "container": _text(container),
            "task-name": name,
            "parent-dag-id": "6",
            "iteration-index": "-1",
            "kubernetes-config": _text(self._kubernetes.get(label, {})),
        }
        outputs = {**patch, "cached-decision": "false", "condition": "nil"}
        for kind, suffix in (("Retry", ""), ("Pod", "(0)")):
            driver = f"{path}.{name}-driver{suffix}"
            self.nodes.append(_node(kind, driver, "system-container-driver", given, outputs))
        for kind, suffix in (("Retry", ""), ("DAG", "(0)")):
            decided = {**patch, "cached-decision": "false"}
            self.nodes.append(_node(kind, f"{path}.{name}{suffix}", "system-container-executor", decided))
        for kind, suffix in (("Retry", ""), ("Pod", "(0)")):
            executor = f"{path}.{name}(0).executor{suffix}"
            self.nodes.append(_node(kind, executor, "system-container-impl", patch, {}))

    def _patch(self, name: str, task: Any, component: Any, container: Any, path: str) -> str:
        place = (
            f"mlpipeline/v2/artifacts/{WORKFLOW[:-6]}/{RUN}/{name}/{UUID(int=zlib.crc32(path.encode()) ** 4)}"
        )
        inputs, outputs = component.get("inputDefinitions", {}), component.get("outputDefinitions", {})
        made = {
            "executor-logs": {"name": "executor-logs", "type": {"schemaTitle": "system.Artifact"}},
            **{
                key: {"name": key, "type": one["artifactType"]}
                for key, one in outputs.get("artifacts", {}).items()
            },
        }
        executor_input = {
            "inputs": {
                "artifacts": {
                    key: {"artifacts": list(self._given(key, one, task, path))}
                    for key, one in inputs.get("artifacts", {}).items()
                },
                "parameterValues": dict(self._parameters(task, inputs)),
            },
            "outputs": {
                "artifacts": {
                    key: {"artifacts": [{**one, "uri": f"minio://{place}/{key}"}]}
                    for key, one in made.items()
                },
                "outputFile": f"/minio/{place}/output_metadata.json",
            },
        }
        command = ["/kfp-launcher/launch", "--executor_type", "container", "--pipeline_name", WORKFLOW[:-6]]
        command += ["--run_id", str(RUN), "--execution_id", "10", "--executor_input", _text(executor_input)]
        keys = [
            {"name": key, "valueFrom": {"secretKeyRef": {"name": "mlpipeline-minio-artifact", "key": "accesskey",
                                                         "optional": True}}}
            for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        ]  # fmt: skip
        patched = {
            "name": "main",
            "image": container["image"],
            "command": [*command, "--component_spec", _text(component), *LAUNCHER],
            "args": [*container["command"], *container["args"]],
            "env": keys,
            "resources": {
                "limits": {"cpu": "2", "memory": "4G"},
                "requests": {"cpu": "500m", "memory": "2G"},
            },
        }
        return _text({"containers": [patched]})

    def _given(self, key: str, definition: Any, task: Any, path: str) -> Iterator[Any]:
        source = task["inputs"]["artifacts"][key]
        output = source.get("taskOutputArtifact", {}).get("outputArtifactKey") or source.get(
            "componentInputArtifact"
        )
        output = str(output).rpartition("-")[2]
        for i in range(self._shards if definition.get("isArtifactList") else 1):
            producer = UUID(int=zlib.crc32(f"{output}{i}{path if output == 'views' else ''}".encode()) ** 4)
            about = {"display_name": output, "store_session_info": _text(STORE)}
            yield {
                "name": "3",
                "uri": f"minio://mlpipeline/v2/artifacts/{WORKFLOW[:-6]}/{RUN}/{output}-of-step/{producer}/{output}",
                "metadata": {**self._metadata.get(output, {}), **about},
            }

    def _parameters(self, task: Any, inputs: Any) -> Iterator[tuple[str, Any]]:
        for key, source in task.get("inputs", {}).get("parameters", {}).items():
            name = source.get("componentInputParameter", "")
            outer = name.removeprefix("pipelinechannel--")
            if "runtimeValue" in source:
                yield key, source["runtimeValue"].get("constant")
            elif outer in self._values:
                yield key, self._values[outer]
            else:
                yield key, "shard-001"


def _node(
    kind: str, name: str, template: str, given: Mapping[str, str], outputs: Mapping[str, str] | None = None
) -> Node:
    """One node; outputs are those of pods, which have logs, too."""
    node: Node = {
        "boundaryID": _id(name.rpartition(".")[0]),
        "children": [_id(f"{name}(0)")],
        "displayName": name.rpartition(".")[2],
        "finishedAt": "2026-11-30T17:07:14Z",
        "id": _id(name),
        "inputs": {"parameters": [{"name": key, "value": value} for key, value in given.items()]},
        "name": name,
        "nodeFlag": {"retried": True},
    }
    if outputs is not None:
        hashed = _id(name if kind == "Pod" else f"{name}(0)").rpartition("-")[2]
        pod = f"{WORKFLOW}-{template}-{hashed}"
        node["outputs"] = {
            "artifacts": [
                {
                    "name": "main-logs",
                    "s3": {"key": f"private-artifacts/kubeflow/{WORKFLOW}/2026/11/30/{pod}/main.log"},
                }
            ],
            "exitCode": "0",
            "parameters": [
                {"name": key, "value": value, "valueFrom": {"default": "", "path": f"/tmp/outputs/{key}"}}
                for key, value in outputs.items()
            ],
        }
    return {
        **node,
        "phase": "Succeeded",
        "progress": "4/4",
        "resourcesDuration": {"cpu": 4, "memory": 194},
        "startedAt": "2026-11-30T17:07:10Z",
        "templateName": template,
        "templateScope": f"local/{WORKFLOW}",
        "type": kind,
    }


def _id(name: str) -> str:
    return f"{WORKFLOW}-{zlib.crc32(name.encode())}"


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
