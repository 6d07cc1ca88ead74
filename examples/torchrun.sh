#!/bin/sh
# One machine, one process a GPU (or a few on a CPU), on your own crystals:
#
#   GPUS=8 sh examples/torchrun.sh data/train.csv.gz data/test.csv.gz runs/mine
#
# Call it again after whatever broke it off: every step goes on where it was.
set -eu
train=$1 test=$2 run=$3
gpus=${GPUS:-$(nvidia-smi --list-gpus 2>/dev/null | wc -l)}
[ "$gpus" -gt 0 ] || gpus=2

together() {
    torchrun --standalone --nproc-per-node "$gpus" -m nesf "$@"
}

mkdir -p "$run"
# packed once, by one process, so that no rank waits for another
[ -f "$run/train.nesf" ] || nesf data pack "$train" --output "$run/train.nesf" || [ $? -eq 1 ]

together fit --config configs/nesf/lcs6.yaml --restart auto \
    --data.train "[$run/train.nesf]" --data.val '[]' \
    --trainer.default_root_dir "$run" --trainer.devices "$gpus"

# torchrun exits with 1 where rows were rejected, too: they are listed then, when all else is done
rm -f "$run/out.rejected.csv"
together reconstruct "$test" --model "$run" --output "$run/out.csv.gz" --resume \
    || [ -f "$run/out.rejected.csv" ]

# one machine matches on all of its cores without ranks
nesf evaluate --predicted "$run/out.csv.gz" --reference "$test" --json "$run/scores.json"
