# SPDX-License-Identifier: Apache-2.0
"""SageMaker's container contract as rules that any server or image is judged by, from outside, over HTTP.

``rules`` says what a rule is, ``all_rules`` has every one of them in the order in which they run; ``subject`` is the
server that is judged, ``run`` judges it, ``report`` tells the outcome. A new rule is a function in a module of
``all_rules``: its docstring says how it is judged, ``expect`` and ``NotApplicable`` are its outcomes.
"""
