#!/bin/sh
# Builds the TensorRT plan that the variant loads, inside the image that serves it. Where the plan that is there still fits
# the graph, the image and the GPU, or the variant loads none, there is nothing to do.
#
#   SCENELOOM_REPOSITORY  folder that sceneloom export wrote; /models
#   SCENELOOM_VARIANT     as for the server; tensorrt
#
# Arguments go to sceneloom engine.
set -eu

repository=${SCENELOOM_REPOSITORY:-/models}
variant=${SCENELOOM_VARIANT:-tensorrt}

sceneloom-driver

case $variant in
tensorrt | tensorrt-*) exec sceneloom engine "$repository/synthesis/1/model.onnx" --keep "$@" ;;
*) echo "the variant $variant loads no plan" ;;
esac
