#!/bin/sh
# Makes the general model anew: its data, and the five parts of its training, one after another, seven
# hours and a half of one CPU core in all.
#   sh examples/train_general.sh DATA
# Call it again after whatever broke it off: it goes on where it was.
set -eu
data=${1:?give the folder of lcs6/, icsg3d_part/, perov5/ and carbon24/ (the configs name ../shared/data)}

[ -f runs/general/data/complete ] || sh examples/general_data.sh "$data" runs/general/data
touch runs/general/data/complete

[ -f runs/general/model.safetensors ] \
  || nesf fit --config configs/nesf/general.yaml --threads 1 --restart auto
[ -f runs/general_displaced/model.safetensors ] \
  || nesf fit --config configs/nesf/general_displaced.yaml --threads 1 --restart auto
[ -f runs/general_again/model.safetensors ] \
  || nesf fit --config configs/nesf/general_displaced.yaml --threads 1 --restart auto \
    --trainer.max_time 00:01:20:00 --trainer.default_root_dir runs/general_again \
    --model.init_args.initial runs/general_displaced --model.init_args.augmentation.displaced 0.5
[ -f runs/general_random/model.safetensors ] \
  || nesf fit --config configs/nesf/general_random.yaml --threads 1 --restart auto
[ -f runs/general_larger/model.safetensors ] \
  || nesf fit --config configs/nesf/general_larger.yaml --threads 1 --restart auto
nesf export --model runs/general_larger --output general.safetensors --half
