# SPDX-License-Identifier: Apache-2.0
"""Settings become typed options, and every mistake is named at once."""

from enum import Enum
from typing import Literal

import pytest
from pydantic import model_validator

from lmi.api import BackendConfig, BackendInfo, ConfigError, Conflict, option
from lmi.config import parse, read_settings
from lmi.config.typed import judge, keys_of


class Speed(Enum):
    FAST = "fast"
    SLOW = "slow"


class AcmeConfig(BackendConfig):
    dtype: Literal["auto", "fp16", "bf16"] = option("auto", description="Type of weights.", aliases=("data_type",))
    max_model_len: int | None = option(None, description="Longest sequence.", unit="tokens", ge=1, le=8192)
    share: float = option(0.9, description="Share of memory.", gt=0, lt=1)
    enforce_eager: bool = option(False, description="No graphs.")
    layers: list[int] = option([], description="Layers to keep.")
    rope: dict[str, float] = option({}, description="Rope.")
    speed: Speed = option(Speed.FAST, description="Speed.")
    degree: int | Literal["max"] = option(1, description="Devices.")
    draft_len: int = option(0, description="Draft.")
    draft_model: str | None = option(None, description="Draft model.")

    @model_validator(mode="after")
    def _draft_needs_length(self):
        if self.draft_model and not self.draft_len:
            raise ValueError("draft_model is set, draft_len is not")
        return self


class OtherConfig(BackendConfig):
    engine_dir: str = option("", description="Where engines are.")


class NeedyConfig(BackendConfig):
    checkpoint: str = option(description="The file to load.")


INFO = BackendInfo(name="acme", summary="")


def typed(config_type=AcmeConfig, environ=(), **flags):
    settings = read_settings(
        model_folder=None, environ=dict(environ), flags={k.replace("__", "."): v for k, v in flags.items()}
    )
    return parse(settings, INFO, config_type, {"other": OtherConfig})


def problems_of(config_type=AcmeConfig, environ=(), **flags):
    with pytest.raises(ConfigError) as caught:
        typed(config_type, environ, **flags)
    return caught.value.problems


def only_problem(**flags):
    (problem,) = problems_of(**flags)
    return str(problem)


def test_defaults_hold_where_nothing_is_set():
    parsed = typed()
    assert parsed.options.rolling_batch == "auto"
    assert (parsed.options.min_workers, parsed.options.max_workers) == (1, 1)
    assert parsed.options.model_loading_timeout == 1800
    assert parsed.options.predict_timeout is None
    assert parsed.config == AcmeConfig()
    assert parsed.warnings == []


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("dtype", "BF16", "bf16"),
        ("data_type", "fp16", "fp16"),
        ("max_model_len", "4096", 4096),
        ("max_model_len", "None", None),
        ("share", "0.5", 0.5),
        ("enforce_eager", "TRUE", True),
        ("enforce_eager", "False", False),
        ("layers", "1, 2,3", [1, 2, 3]),
        ("layers", "[4, 5]", [4, 5]),
        ("rope", "factor=2,base=3.5", {"factor": 2.0, "base": 3.5}),
        ("rope", '{"factor": 4}', {"factor": 4.0}),
        ("speed", "Slow", Speed.SLOW),
        ("degree", "MAX", "max"),
        ("degree", "4", 4),
        ("draft_len", " 3 ", 3),
    ],
)
def test_text_becomes_the_type_of_its_field(key, text, value):
    field = "dtype" if key == "data_type" else key
    assert getattr(typed(**{key: text}).config, field) == value


def test_text_and_typed_values_give_the_same_configuration():
    from_text = typed(
        environ={"OPTION_MAX_MODEL_LEN": "64", "OPTION_ENFORCE_EAGER": "True", "OPTION_LAYERS": "1,2"}
    ).config
    assert from_text == AcmeConfig(max_model_len=64, enforce_eager=True, layers=[1, 2])


def test_the_cores_keys_are_read_under_their_original_names():
    options = typed(
        environ={
            "OPTION_PYTHONEXECUTABLE": "/usr/bin/python3",
            "OPTION_ENTRYPOINT": "pack.acme",
            "SERVING_MIN_WORKERS": "2",
        },
        env="HF_HOME=/tmp/hf,B=2",
        output_formatter="JSONLINES",
        device="CPU",
        predict_timeout="2.5",
    ).options
    assert options.python_executable == "/usr/bin/python3"
    assert options.entry_point == "pack.acme"
    assert options.env == {"HF_HOME": "/tmp/hf", "B": "2"}
    assert (options.output_formatter, options.device, options.predict_timeout) == ("jsonlines", "cpu", 2.5)


def test_min_workers_alone_means_exactly_so_many():
    options = typed(minWorkers="3").options
    assert (options.min_workers, options.max_workers) == (3, 3)


def test_more_workers_to_start_than_there_may_be_is_refused_with_both_numbers():
    assert only_problem(minWorkers="3", maxWorkers="2") == (
        "[config.conflict] minWorkers=3 is more than maxWorkers=2 "
        "(command line -o minWorkers, command line -o maxWorkers). Lower minWorkers or raise maxWorkers."
    )


def test_unknown_key_is_refused_and_names_the_nearest_key():
    assert only_problem(option__tensor_paralel_degree="4") == (
        "[config.unknown-key] 'option.tensor_paralel_degree' is not an option of acme or of LMI "
        "(command line -o option.tensor_paralel_degree). Did you mean 'option.tensor_parallel_degree'?"
    )


def test_unknown_variable_is_refused_under_the_key_it_stands_for():
    (problem,) = problems_of(environ={"OPTION_ENFORCE_EAGR": "1"})
    assert problem.message == "'option.enforce_eagr' is not an option of acme or of LMI"
    assert (problem.source, problem.hint) == ("OPTION_ENFORCE_EAGR", "Did you mean 'option.enforce_eager'?")


def test_a_key_of_the_whole_server_is_told_where_it_belongs():
    (problem,) = problems_of(management_address="http://127.0.0.1:8081")
    assert problem.hint == (
        "It is an option of the server: set SERVING_MANAGEMENT_ADDRESS, or management_address in config.properties (-f)"
    )


def test_unknown_key_that_is_near_nothing_lists_all_keys():
    hint = problems_of(zzzzzzzzz="1")[0].hint
    assert hint.startswith("The options are: batch_size, cpu.maxWorkers,")
    assert set(keys_of(AcmeConfig)) <= set(hint.removeprefix("The options are: ").split(", "))


def test_key_of_another_backend_is_a_warning():
    (warning,) = typed(engine_dir="/x").warnings
    assert str(warning).startswith(
        "[config.other-backend] 'option.engine_dir' is an option of other and does nothing for acme"
    )


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("max_model_len", "0", "'option.max_model_len' is '0'; it must be at least 1 (tokens)"),
        ("max_model_len", "9000", "'option.max_model_len' is '9000'; it must be at most 8192 (tokens)"),
        ("max_model_len", "many", "'option.max_model_len' is 'many'; it must be a whole number (tokens)"),
        ("max_model_len", "1.5", "'option.max_model_len' is '1.5'; it must be a whole number (tokens)"),
        ("share", "1", "'option.share' is '1'; it must be less than 1"),
        ("share", "nan", "'option.share' is 'nan'; it must be less than 1"),
        ("enforce_eager", "perhaps", "'option.enforce_eager' is 'perhaps'; it must be true or false"),
        ("layers", "[1", "'option.layers' is '[1'; it must be a,b,c or a JSON list"),
        ("rope", "factor", "'option.rope' is 'factor'; it must be K=V,K2=V2 or a JSON object"),
        ("job_queue_size", "0", "'job_queue_size' is '0'; it must be at least 1 (requests)"),
        ("stall_timeout", "inf", "'option.stall_timeout' is 'inf'; it must be a finite number (s)"),
    ],
)
def test_a_bad_value_is_named_with_its_bound(key, value, said):
    (problem,) = problems_of(**{key: value})
    assert (problem.code, problem.message) == ("config.invalid-value", said)
    assert problem.source == f"command line -o {key}"


def test_a_bad_choice_lists_the_choices_and_the_nearest():
    assert only_problem(dtype="bf61") == (
        "[config.invalid-value] 'option.dtype' is 'bf61'; there is no such choice (command line -o dtype). "
        "Did you mean 'bf16'? Choices: auto, fp16, bf16."
    )


def test_all_problems_come_at_once():
    codes = [problem.code for problem in problems_of(dtype="x", max_model_len="0", bogus="1", heartbeat_interval="-1")]
    assert sorted(codes) == ["config.invalid-value"] * 3 + ["config.unknown-key"]


def test_problems_of_the_file_come_with_the_others(tmp_path):
    (tmp_path / "serving.properties").write_text("=1\noption.dtype=q\n")
    settings = read_settings(model_folder=tmp_path, environ={}, flags={})
    with pytest.raises(ConfigError, match="2 problems in the configuration") as caught:
        parse(settings, INFO, AcmeConfig, {})
    assert [problem.source for problem in caught.value.problems] == ["serving.properties:1", "serving.properties:2"]


def test_two_names_of_one_option_with_different_values_are_refused():
    said = only_problem(dtype="fp16", data_type="bf16")
    assert "'option.dtype' = 'fp16' (command line -o dtype)" in said
    assert "'option.data_type' = 'bf16' (command line -o data_type)" in said


def test_two_names_of_one_option_with_one_value_are_fine():
    assert typed(dtype="fp16", data_type="fp16").config.dtype == "fp16"


def test_a_required_key_that_is_not_set_is_named():
    (problem,) = problems_of(NeedyConfig)
    assert str(problem) == "[config.missing-key] 'option.checkpoint' is not set and has no default. The file to load."


def test_a_backends_own_rule_is_reported_in_its_words():
    assert only_problem(draft_model="tiny") == (
        "[config.conflict] draft_model is set, draft_len is not. Change one of the options it names."
    )


def test_a_wrong_secret_is_refused_without_being_shown():
    class Secretive(BackendConfig):
        api_token: int = option(0, description="A token.")

    (problem,) = problems_of(Secretive, api_token="hush")
    assert "hush" not in str(problem)


# ----------------------------------------------------------------------------------- old names, options together


class TogetherConfig(BackendConfig):
    dtype: str = option("auto", description="Type of weights.", old_names=("data_type",))
    quantize: str | None = option(None, description="Compression.")
    alpha: float = option(0.8, description="Of smoothquant.", unit="share")

    def conflicts(self):
        if "alpha" in self.model_fields_set and self.quantize != "smoothquant":
            yield Conflict(
                fields=("alpha", "quantize"),
                message=f"alpha={self.alpha} is for quantize=smoothquant, and quantize is {self.quantize}",
                hint="Set quantize=smoothquant, or take alpha out",
            )


def test_an_old_name_works_and_a_warning_names_the_new_one():
    parsed = typed(TogetherConfig, environ={"OPTION_DATA_TYPE": "bf16"})
    assert parsed.config.dtype == "bf16"
    [warning] = parsed.warnings
    assert str(warning) == (
        "[config.deprecated] 'option.data_type' is an old name of 'option.dtype' (OPTION_DATA_TYPE). "
        "Write option.dtype=bf16."
    )


def test_options_that_do_not_go_together_are_named_with_both_sources():
    problems = problems_of(TogetherConfig, environ={"OPTION_QUANTIZE": "awq"}, alpha="0.5")
    assert [str(problem) for problem in problems] == [
        "[config.conflict] alpha=0.5 is for quantize=smoothquant, and quantize is awq (command line -o alpha, "
        "OPTION_QUANTIZE). Set quantize=smoothquant, or take alpha out."
    ]


def test_a_variable_of_another_server_that_the_backend_has_no_use_for_is_a_warning():
    [warning] = typed(environ={"HF_MODEL_QUANTIZE": "awq"}).warnings
    assert (warning.code, warning.source) == ("config.of-no-use", "HF_MODEL_QUANTIZE")
    assert "which acme does not have" in warning.message
    assert problems_of(environ={"OPTION_QUANTIZE": "awq"})[0].code == "config.unknown-key"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("enigne", "engine"), ("engin", "engine"), ("ENGINE", "engine"), ("batchsize", "batch_size"),
        ("minWorker", "minWorkers"), ("minworkers", "minWorkers"), ("option.enigne", "engine"),
        ("job_queue_sise", "job_queue_size"), ("option.model-id", "option.model_id"), ("modelid", "option.model_id"),
    ],
)  # fmt: skip
def test_a_misspelt_key_is_compared_without_the_prefix_that_most_keys_share(written, meant):
    info = BackendInfo(name="plain", summary="")
    settings = read_settings(model_folder=None, environ={}, flags={written: "1"})
    _, problems = judge(settings, info, BackendConfig, {})
    assert [problem.hint for problem in problems] == [f"Did you mean '{meant}'?"]


def test_a_wrong_number_of_workers_is_told_once():
    settings = read_settings(model_folder=None, environ={}, flags={"minWorkers": "0"})
    _, problems = judge(settings, BackendInfo(name="plain", summary=""), BackendConfig, {})
    assert [problem.code for problem in problems] == ["config.invalid-value"]
