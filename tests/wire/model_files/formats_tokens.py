# SPDX-License-Identifier: Apache-2.0
"""Formatters that are called for each token."""

from djl_python.output_formatter import RequestOutput, output_formatter


@output_formatter
def write(request_output: RequestOutput) -> str:
    sequence = request_output.sequences[request_output.best_sequence_index]
    token, _, is_last = sequence.get_next_token()
    if token.text == "!":
        raise ValueError("no exclamations")
    return f"<{token.text}.{sequence.finish_reason}>" if is_last else f"<{token.text}>"


def legacy(token, first_token, last_token, details, generated_text, request_id):
    return f"{generated_text}:{generated_text}" if last_token else f"{token.text}+"
