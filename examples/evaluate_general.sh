#!/bin/sh
# Scores of a model on the test splits of four sets, by its encoder alone and with refined latents.
#   sh examples/evaluate_general.sh DATA OUTPUT [MODEL] [SET...]
set -eu
data=${1:?give the folder of lcs6/, icsg3d_part/, perov5/ and carbon24/}
output=${2:?give a folder for crystals and scores}
model=${3:-general}
if [ $# -gt 3 ]; then shift 3; else set -- lcs6 icsg3d_part perov5 carbon24; fi
mkdir -p "$output"
for name in "$@"; do
  for kind in encoder refined; do
    steps=$([ $kind = encoder ] && echo "--refine 0" || echo "")
    echo "$name, $kind"
    # exit code 1 only says that some crystals gave nothing: they are scored as failures
    # shellcheck disable=SC2086
    nesf reconstruct "$data/$name/test.csv.gz" --model "$model" $steps --setting given --batch-size 512 \
      --output "$output/${name}_$kind.csv" --overwrite || [ $? -eq 1 ]
    nesf evaluate --predicted "$output/${name}_$kind.csv" --reference "$data/$name/test.csv.gz" \
      --json "$output/${name}_$kind.json"
  done
done
