# SPDX-License-Identifier: Apache-2.0
"""What SageMaker's variables say of a container, and what that makes of the defaults."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmi.api import ConfigError
from lmi.config.hosted import from_container
from lmi.config.model_entries import ModelEntry
from lmi.container import Container
from lmi.reading import read_configuration

HOSTED = {"SAGEMAKER_BIND_TO_PORT": "8080"}
JOB = {"SAGEMAKER_BATCH": "true"}


def defaults(environ: dict[str, str]) -> dict[str, tuple[str, str]]:
    return {each.key: (each.value, each.source) for each in from_container(environ)}


def test_a_container_is_the_platforms_by_a_variable_or_by_its_folder(tmp_path: Path) -> None:
    assert not Container.of({}, tmp_path).is_sagemaker
    assert Container.of(HOSTED, tmp_path).is_sagemaker
    (tmp_path / "opt" / "ml").mkdir(parents=True)
    assert Container.of({}, tmp_path).is_sagemaker


def test_the_safe_ports_are_a_range() -> None:
    assert Container.of({}).safe_ports is None
    assert Container.of({"SAGEMAKER_SAFE_PORT_RANGE": " 9000-9099 "}).safe_ports == (9000, 9099)


def test_what_the_owner_of_a_job_has_chosen_is_read() -> None:
    chosen = {
        "SAGEMAKER_BATCH_STRATEGY": "MultiRecord",
        "SAGEMAKER_MAX_PAYLOAD_IN_MB": "0",
        "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS": "7",
    }
    job = Container.of({**JOB, **chosen})
    assert (job.is_batch, job.batch_strategy, job.max_payload_mb, job.max_transforms) == (True, "MULTI_RECORD", 0, 7)
    left = Container.of(JOB)
    assert (left.batch_strategy, left.max_payload_mb, left.max_transforms) == (None, None, None)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("SAGEMAKER_SAFE_PORT_RANGE", "9000"),
        ("SAGEMAKER_SAFE_PORT_RANGE", "9099-9000"),
        ("SAGEMAKER_SAFE_PORT_RANGE", "0-10"),
        ("SAGEMAKER_SAFE_PORT_RANGE", "9000-99999"),
        ("SAGEMAKER_BATCH_STRATEGY", "SOME"),
        ("SAGEMAKER_MAX_PAYLOAD_IN_MB", "6MB"),
        ("SAGEMAKER_MAX_CONCURRENT_TRANSFORMS", "-1"),
    ],
)
def test_a_variable_that_is_not_in_its_form_is_refused_with_the_form(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=rf"config.invalid-value: {name}='{text}' is not in its form. Write "):
        Container.of({name: text})


def test_bodies_have_sagemakers_limit_where_it_runs_the_server() -> None:
    assert defaults({}) == {}
    assert defaults(HOSTED) == {"max_request_size": ("26214400", "SageMaker's limit")}


def test_bodies_of_a_job_have_the_limit_of_its_owner_else_the_platforms_for_jobs() -> None:
    assert defaults(JOB) == {"max_request_size": ("6291456", "SAGEMAKER_BATCH")}
    chosen = "SAGEMAKER_MAX_PAYLOAD_IN_MB"
    assert defaults({**JOB, chosen: "20"}) == {"max_request_size": ("20971520", chosen)}
    assert int(defaults({**JOB, chosen: "0"})["max_request_size"][0]) >= 1 << 40


def test_everything_else_that_sets_the_limit_beats_the_platforms(tmp_path: Path) -> None:
    (tmp_path / "serving.properties").write_text("option.rolling_batch=echo\n")

    def limit(**environ: str) -> tuple[str, str, list[str]]:
        read = read_configuration(ModelEntry(url=str(tmp_path)), flags={}, environ={**HOSTED, **environ})
        setting = read.settings["max_request_size"]
        return setting.value, setting.source, [each.value for each in setting.overrode]

    assert limit() == ("26214400", "SageMaker's limit", [])
    name = "SAGEMAKER_MAX_REQUEST_SIZE"
    assert limit(**{name: "1073741824"}) == ("1073741824", name, ["26214400"])
    assert limit(SERVING_MAX_REQUEST_SIZE="5") == ("5", "SERVING_MAX_REQUEST_SIZE", ["26214400"])
