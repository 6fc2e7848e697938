#!/bin/sh
# Builds the TensorRT plan that the variant loads, inside the image that serves it; with the plan in its place, or with a
# variant that loads none, there is nothing to do.
#
#   SCENELOOM_REPOSITORY  folder that sceneloom export wrote; /models
#   SCENELOOM_VARIANT     as for the server; tensorrt
#
# Arguments go to sceneloom engine.
set -eu

repository=${SCENELOOM_REPOSITORY:-/models}
variant=${SCENELOOM_VARIANT:-tensorrt}

if sceneloom verify "$repository" --variant "$variant"; then
    echo "there is no plan to build"
    exit 0
fi
exec sceneloom engine "$repository/synthesis/1/model.onnx" "$@"
