"""Names of the files in the folder of a training run."""

BEST, LAST = "checkpoints/best.ckpt", "checkpoints/last.ckpt"
MODEL, TRAINING = "model.safetensors", "training.json"
CONFIG, CURVE, TENSORBOARD = "config.yaml", "curve.jsonl", "tensorboard"
MODELS = (MODEL, BEST, LAST)  # the best to use first

# what `nesf report` adds
RECONSTRUCTED, METRICS, REPORT = "reconstructed", "metrics.json", "report.html"
