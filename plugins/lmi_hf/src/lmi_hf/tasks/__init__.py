# SPDX-License-Identifier: Apache-2.0
"""Models that do something else than continue a text: labels of texts and of words, masks, questions.

Published for backends that build on this one. ``checks`` needs no engine library; all else does.
"""
