#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# SageMaker calls an image with `serve`, or `train`; LMI's containers also took `partition`, and ran any other command.
[ $# -gt 0 ] || set -- serve
case "$1" in
serve | train | partition) exec lmi "$@" ;;
*) exec "$@" ;;
esac
