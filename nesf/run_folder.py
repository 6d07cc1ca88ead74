"""Names of the files in the folder of a training run."""

BEST, LAST = "checkpoints/best.ckpt", "checkpoints/last.ckpt"
MODEL, TRAINING = "model.safetensors", "training.json"
CURVE = "curve.jsonl"
