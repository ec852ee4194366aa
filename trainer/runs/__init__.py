"""A run's folder, and who is told what happens in it.

run_dir     the folder: config.json, metrics.jsonl, result.json, its lock
fields      what every field of these files must be
metrics     lines of metrics.jsonl
checkpoint  the state of a run, saved and restored
telemetry   losses kept on the device until a line is due
weights     averaged weights as safetensors
transfer    a backbone taken from another run
console     what training prints
trackers    TensorBoard, Weights & Biases, MLflow, Trackio
png         a PNG encoder
"""
