#!/bin/sh
# The training crystals of the general model (configs/nesf/general*.yaml): generated prototypes,
# random crystals and the training splits of four sets, without any crystal of their validation and
# test splits, whatever its id and cell.
#   sh examples/general_data.sh DATA OUTPUT
set -eu
data=${1:?give the folder of lcs6/, icsg3d_part/, perov5/ and carbon24/}
output=${2:?give the folder for the packed sets}
sets="lcs6 icsg3d_part perov5 carbon24"

held=
for name in $sets; do
  held="$held,$data/$name/val.csv.gz,$data/$name/test.csv.gz"
done
held="[${held#,}]"

# exit code 1 only says that rows were left out: they are listed
pack() {
  nesf data pack "$1" --output "$output/$2.nesf" --held-out "$held" || [ $? -eq 1 ]
}

mkdir -p "$output"
for name in $sets; do
  pack "$data/$name/train.csv.gz" "$name"
done
nesf data prototypes --count 20000 --seed 1 --max-atoms 24 --output "$output/prototypes_all.nesf"
pack "$output/prototypes_all.nesf" prototypes
nesf data random --count 40000 --seed 2 --output "$output/random_all.nesf"
pack "$output/random_all.nesf" random
nesf data random --count 60000 --seed 5 --max-atoms 56 --output "$output/random_larger_all.nesf"
pack "$output/random_larger_all.nesf" random_larger
nesf data random --count 200 --seed 3 --output "$output/random_val.nesf"
