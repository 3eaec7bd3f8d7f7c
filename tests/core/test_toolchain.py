# SPDX-License-Identifier: Apache-2.0
"""Versions of what compiled models depend on: the flag wins over the image's file, that over what is installed."""

import json
from importlib import metadata

import pytest

from lmi.api import BackendInfo, ConfigError
from lmi.toolchain import FILE_VARIABLE, parse_versions, versions_of

INFOS = [BackendInfo(name="one", summary="", compilers=("pluggy", "acme-cc")), BackendInfo(name="two", summary="")]


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "versions.json"
    path.write_text(json.dumps({"acme_cc": "2.12.1", "other": "1.0"}))
    return {FILE_VARIABLE: str(path)}


def test_the_flag_takes_several_names_and_spellings():
    assert parse_versions("acme_cc=2.16.372.0+4a9, pluggy=1.5", INFOS) == {"acme-cc": "2.16.372.0+4a9", "pluggy": "1.5"}
    assert parse_versions("", INFOS) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("acme-cc", "target.unknown: --target 'acme-cc' is no NAME=VERSION. Write it like acme-cc=1.0."),
        ("acme-cc=latest", "target.unknown: --target 'acme-cc=latest' is no NAME=VERSION. Write it like acme-cc=1.0."),
        (
            "acme-c=1.0",
            "target.unknown: --target names acme-c, which no backend compiles with. Did you mean acme-cc?",
        ),
        (
            "zzz=1.0",
            "target.unknown: --target names zzz, which no backend compiles with. Known: acme-cc, pluggy.",
        ),
    ],
)
def test_what_is_no_version_of_a_known_compiler_is_refused(text, message):
    with pytest.raises(ConfigError) as caught:
        parse_versions(text, INFOS)
    assert str(caught.value) == message


def test_of_this_machine_what_is_installed_counts():
    assert versions_of({}, {}, INFOS, is_here=True) == {"pluggy": metadata.version("pluggy")}
    assert versions_of({}, {}, INFOS, is_here=False) == {}


def test_the_image_says_more_than_what_is_installed_and_the_flag_more_than_the_image(image):
    found = versions_of({"pluggy": "0.1"}, image, INFOS, is_here=True)
    assert found == {"pluggy": "0.1", "acme-cc": "2.12.1", "other": "1.0"}


@pytest.mark.parametrize("content", ["[1]", "{", '{"acme-cc": 2}', None])
def test_a_file_that_cannot_be_used_is_named(tmp_path, content):
    path = tmp_path / "versions.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=f"target.unreadable: .*{path}.*{FILE_VARIABLE} names it"):
        versions_of({}, {FILE_VARIABLE: str(path)}, INFOS, is_here=False)
