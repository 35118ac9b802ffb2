"""The doctor: finds what is wrong with endpoint, login, namespace, secret, bucket, image and model, and says so."""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cluster_backend import PACKAGE, Backend

from clipseg_kfp import Client, Recipe
from clipseg_kfp.client import Login
from clipseg_kfp.client.doctor import Asked, Finding, examine
from clipseg_kfp.client.storage_checks import has_endpoint
from clipseg_kfp.local.store import EmbeddedStore
from clipseg_kfp.storage import open_folder
from clipseg_kfp.storage.s3 import connect

Say = Callable[..., tuple[int, str, str]]


def marks(findings: list[Finding]) -> dict[str, str]:
    return {one.what: one.mark for one in findings}


def detail(findings: list[Finding], what: str) -> str:
    return next(one.detail for one in findings if one.what == what)


def test_all_is_well(say: Say, client: Client, bucket: str, s3_env: dict[str, str]) -> None:
    client.upload("batch-segmentation", Recipe("registry.example/clipseg@sha256:" + "0" * 64))
    folder = open_folder(f"s3://{bucket}/in")
    folder.write("x.jpg", b"an image")
    open_folder(f"s3://{bucket}/model").write("config.json", b"{}")
    places = (f"s3://{bucket}/in", f"s3://{bucket}/out", f"s3://{bucket}/model")
    findings = examine(client, Asked(*places))
    assert marks(findings) == {
        "endpoint": "ok",
        "login": "ok",
        "backend version": "ok",
        "namespace": "ok",
        "pipeline": "ok",
        "image": "unknown",  # no way to its registry from here, nor to the nodes
        "storage secret": "warn",  # no way to Kubernetes from here
        "images": "ok",
        "results": "ok",
        "conditional writes": "ok",
        "model": "ok",
    }
    assert "2.17.0" in detail(findings, "backend version")
    assert "kubectl get secret mlpipeline-minio-artifact -n kubeflow" in detail(findings, "storage secret")
    assert detail(findings, "conditional writes") == "honored by the store"
    assert list(open_folder(f"s3://{bucket}/out").entries()) == []  # the probe is gone
    words = ["--source-uri", places[0], "--output-uri", places[1], "--model-uri", places[2]]
    status, out, _ = say("doctor", *words)
    assert status == 0 and "can be listed, written and read" in out


def test_an_object_as_source(client: Client, bucket: str, s3_env: dict[str, str]) -> None:
    open_folder(f"s3://{bucket}").write("photos.zip", b"PK")
    findings = examine(client, Asked(source_uri=f"s3://{bucket}/photos.zip"))
    assert marks(findings)["images"] == "ok"


def test_a_reader_may_not_write(
    client: Client, store: EmbeddedStore, s3_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = next(one for one in store.identities if one.name == "reader")
    if not store.client().bucket_exists("shared"):
        store.make_bucket("shared")
    for name, value in store.environment(reader).items():
        monkeypatch.setenv(name, value)
    connect.cache_clear()
    findings = examine(client, Asked("s3://shared/in", "s3://shared/out"))
    assert marks(findings)["images"] == "warn"  # empty
    assert marks(findings)["results"] == "fail"
    assert "Access to s3://shared/out/" in detail(findings, "results")


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("s3://no-such-bucket/x", "does not exist"),
        ("./local", "a folder on this machine"),
        ("ftp://x", "scheme"),
    ],
)
def test_wrong_places(client: Client, s3_env: dict[str, str], uri: str, said: str) -> None:
    findings = examine(client, Asked(uri, uri, uri if uri.startswith("s3") else ""))
    assert marks(findings)["images"] == marks(findings)["results"] == "fail"
    assert said in detail(findings, "images") and said in detail(findings, "results")


def test_nothing_answers(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipseg_kfp.client.api.PATIENCE_SECONDS", 0.1)
    status, out, _ = say("doctor", "--host", "http://127.0.0.1:9")
    assert status == 1 and "fail" in out and "kubectl port-forward" in " ".join(out.replace("│", " ").split())


def test_a_login_that_expired(users: Backend) -> None:
    findings = examine(Client(users.url, "team-a", login=Login(token="old")), Asked())
    assert marks(findings)["login"] == "fail"
    assert "pipeline" not in marks(findings)  # nothing more to see without a login
    assert "KFP_TOKEN_FILE" in detail(findings, "login")


def test_a_namespace_is_needed_or_closed(users: Backend) -> None:
    login = Login(token="alice-token")
    assert marks(examine(Client(users.url, "team-b", login=login), Asked()))["login"] == "fail"
    nowhere = examine(Client(users.url, login=login), Asked())
    assert marks(nowhere)["namespace"] == "fail" and "KFP_NAMESPACE" in detail(nowhere, "namespace")


def test_an_old_or_silent_backend(client: Client, backend: Backend) -> None:
    backend.state.version = "1.8.22"
    assert marks(examine(client, Asked()))["backend version"] == "fail"
    backend.state.version = ""
    assert marks(examine(client, Asked()))["backend version"] == "warn"


@pytest.mark.parametrize(
    ("version", "marked", "doubted"),
    [("2.17.0", "ok", False), ("2.16.1", "warn", False), ("2.15.0", "warn", True), ("2.4.1", "fail", True)],
)
def test_a_backend_that_is_older_than_the_packages(
    client: Client, backend: Backend, version: str, marked: str, doubted: bool
) -> None:
    client.upload(PACKAGE)
    backend.state.version = version
    findings = examine(client, Asked())
    assert marks(findings)["backend version"] == marked
    assert ("store" in marks(findings)) == doubted
    if doubted:
        assert "http://minio-service.kubeflow:9000" in detail(findings, "store")
        client.upload("batch-segmentation", Recipe(settings={"endpoint": "https://store.example"}))
        assert "store" not in marks(examine(client, Asked()))


def test_a_pipeline_that_is_not_there(client: Client) -> None:
    findings = examine(client, Asked())
    assert marks(findings)["pipeline"] == "fail"
    assert "clipseg-kfp upload batch-segmentation" in detail(findings, "pipeline")


def test_the_default_image_is_doubted(client: Client) -> None:
    client.upload(PACKAGE)
    findings = examine(client, Asked())
    assert marks(findings)["image"] == "warn" and "names no registry" in detail(findings, "image")
    assert marks(findings)["model"] == "warn" and "Pin a revision" in detail(findings, "model")


@pytest.mark.parametrize(
    ("image", "mark"),
    [
        ("clipseg-kfp:1", "warn"),
        ("team/clipseg-kfp:1", "warn"),
        ("registry.example/clipseg-kfp", "warn"),
        ("registry.example:5000/clipseg-kfp", "warn"),
        ("registry.example/clipseg-kfp:latest", "warn"),
        ("registry.example/clipseg-kfp:1.2", "unknown"),
        ("registry.example/invented-by-a-test@sha256:" + "a" * 64, "unknown"),
        ("localhost/clipseg-kfp@sha256:" + "a" * 64, "unknown"),
    ],
)
def test_an_image_is_never_said_to_be_there_by_its_name(client: Client, image: str, mark: str) -> None:
    client.upload("batch-segmentation", Recipe(image))
    findings = examine(client, Asked())
    assert marks(findings)["image"] == mark
    command = f"kubectl run image-check -n kubeflow --rm --attach --restart=Never --image={image} "
    assert (command in detail(findings, "image")) == (mark == "unknown")


def test_an_image_that_a_node_has(client: Client, kubernetes: None, monkeypatch: pytest.MonkeyPatch) -> None:
    client.upload("batch-segmentation", Recipe(ON_NODE))
    assert marks(examine(client, Asked()))["image"] == "ok"
    monkeypatch.setattr(f"{__name__}.NODES_STATUS", 403)  # who may not see nodes learns nothing
    assert marks(examine(client, Asked()))["image"] == "unknown"
    monkeypatch.setattr(f"{__name__}.NODES_STATUS", 200)
    client.upload("batch-segmentation", Recipe(ON_NODE.replace("1", "2")))
    assert marks(examine(client, Asked()))["image"] == "unknown"


@pytest.mark.parametrize(
    ("uri", "mark"),
    [("hf://org/name@main", "unknown"), ("hf://org/name", "warn"), ("file:///models/clipseg", "unknown")],
)
def test_a_model_is_never_said_to_be_there_by_its_name(client: Client, uri: str, mark: str) -> None:
    assert marks(examine(client, Asked(model_uri=uri)))["model"] == mark


ON_NODE = "registry.example/team/clipseg-kfp@sha256:" + "1" * 64
NODES_STATUS = 200
KEYS: dict[str, str] = {}  # of the real store, where a test sets them


class _Kubernetes(BaseHTTPRequestHandler):
    """Answers for one secret, as the Kubernetes API does."""

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        secrets = {
            "whole": {"accesskey": "a", "secretkey": "b"},
            "own": {"user": "a", "password": "b"},
            "half": {"accesskey": "a"},
            "newline": {"accesskey": "a", "secretkey": "b\n"},
            "store": KEYS,
        }
        name = self.path.rpartition("/")[2]
        status, answer = 404, {"kind": "Status", "code": 404}
        if name == "forbidden":
            status = 403
        elif self.path.startswith("/api/v1/namespaces/kubeflow/secrets/") and name in secrets:
            data = {key: base64.b64encode(value.encode()).decode() for key, value in secrets[name].items()}
            status, answer = (
                200,
                {"kind": "Secret", "apiVersion": "v1", "metadata": {"name": name}, "data": data},
            )
        if self.path == "/api/v1/nodes":
            images = [{"names": [ON_NODE, "registry.example/team/clipseg-kfp:1"]}, {"names": None}]
            status, answer = (
                NODES_STATUS,
                {"kind": "NodeList", "items": [{"status": {"images": images}}, {"status": {}}]},
            )
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def kubernetes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Kubernetes) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "clusters": [
                {"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_address[1]}"}}
            ],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        }
        path = tmp_path / "kubeconfig"
        path.write_text(json.dumps(config), "utf-8")
        monkeypatch.setenv("KUBECONFIG", str(path))
        yield
        server.shutdown()


@pytest.mark.parametrize(
    ("name", "mark", "said"),
    [
        ("whole", "ok", "has its keys"),
        ("half", "fail", "lacks the key secretkey"),
        ("newline", "fail", "with a space or a newline"),
        ("none", "fail", "is not in namespace 'kubeflow'"),
        ("forbidden", "warn", "answered 403"),
    ],
)
def test_the_storage_secret(client: Client, kubernetes: None, name: str, mark: str, said: str) -> None:
    findings = examine(client, Asked(secret=name))
    assert marks(findings)["storage secret"] == mark
    assert said in detail(findings, "storage secret")


def test_the_keys_are_those_that_the_uploaded_version_takes(client: Client, kubernetes: None) -> None:
    names = {"user": "AWS_ACCESS_KEY_ID", "password": "AWS_SECRET_ACCESS_KEY"}
    client.upload("batch-segmentation", Recipe(settings={"storage_keys": names}))
    assert marks(examine(client, Asked(secret="own")))["storage secret"] == "ok"
    assert "lacks the key user and password" in detail(
        examine(client, Asked(secret="whole")), "storage secret"
    )


def test_the_keys_of_the_secret_open_the_bucket(
    client: Client,
    kubernetes: None,
    bucket: str,
    s3_env: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    say: Say,
) -> None:
    open_folder(f"s3://{bucket}/in").write("x.jpg", b"an image")
    key, secret = s3_env["AWS_ACCESS_KEY_ID"], s3_env["AWS_SECRET_ACCESS_KEY"]
    monkeypatch.setitem(KEYS, "accesskey", key)
    monkeypatch.setitem(KEYS, "secretkey", secret)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    connect.cache_clear()
    asked = Asked(f"s3://{bucket}/in", f"s3://{bucket}/out", secret="store")
    found = marks(examine(client, asked))
    assert found["bucket"] == found["images"] == found["results"] == "ok"
    assert "AWS_ACCESS_KEY_ID" not in os.environ  # lent, not kept
    out = "".join(say("doctor", "--secret", "store", "--output-uri", f"s3://{bucket}/out")[1:])
    assert "with the keys of the storage secret" in out
    assert key not in out and secret not in out

    monkeypatch.delenv("S3_ENDPOINT")
    assert not has_endpoint("")  # then the keys are not lent: nobody's go to AWS unasked


def test_the_probe_goes_also_where_the_check_is_stopped(
    client: Client, bucket: str, s3_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("clipseg_kfp.client.storage_checks._conditional", stopped)
    with pytest.raises(KeyboardInterrupt):
        examine(client, Asked(output_uri=f"s3://{bucket}/out"))
    assert list(open_folder(f"s3://{bucket}/out").entries()) == []
