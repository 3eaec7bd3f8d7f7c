# SPDX-License-Identifier: Apache-2.0
import pytest

from lmi.api.errors import RequestError
from lmi.config.options import ModelOptions
from lmi.container import Container
from lmi.serving.deadlines import deadline_s

LAPTOP, HOSTED = Container(), Container(is_sagemaker=True)
ATTRIBUTES, API = "x-amzn-sagemaker-custom-attributes", "x-amzn-sagemaker-forwarded-api"


def limit(container=LAPTOP, headers=None, is_stream=False, **options):
    return deadline_s(ModelOptions(**options), container, headers or {}, is_stream=is_stream)


def test_on_a_laptop_a_request_takes_as_long_as_it_likes():
    assert limit() is None
    assert limit(is_stream=True) is None


def test_on_sagemaker_it_ends_before_the_platform_stops_waiting():
    assert limit(HOSTED) == 58
    assert limit(HOSTED, is_stream=True) == 478


def test_a_stream_through_the_call_for_whole_answers_has_the_time_of_those():
    assert limit(HOSTED, {API: "InvokeEndpoint"}, is_stream=True) == 58
    assert limit(HOSTED, {API: "InvokeEndpointWithResponseStream"}, is_stream=True) == 478


def test_a_batch_job_has_no_deadline_that_the_container_knows():
    assert limit(Container(is_sagemaker=True, is_batch=True)) is None


def test_options_hold_instead_of_the_platforms_numbers_the_shorter_of_two():
    assert limit(HOSTED, deadline_s=900) == 900
    assert limit(HOSTED, predict_timeout=7) == 7
    assert limit(deadline_s=9, predict_timeout=7) == 7


def test_a_caller_says_how_long_it_waits_up_to_what_the_options_say():
    headers = {ATTRIBUTES: "adapter=fr; deadline_s=120"}
    assert limit(HOSTED, headers) == 120
    assert limit(HOSTED, headers, deadline_s=30) == 30
    assert limit(HOSTED, headers, deadline_s=300) == 120


@pytest.mark.parametrize("text", ["soon", "-1", "0", "nan", "inf", "1e9", "9" * 400])
def test_a_number_that_is_none_is_refused(text):
    with pytest.raises(RequestError, match="deadline_s="):
        limit(headers={ATTRIBUTES: f"deadline_s={text}"})
