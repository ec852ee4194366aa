"""Where a run's curves and pictures go beside its own files, all through one interface, `curves.Board`.

curves       every number of metrics.jsonl by its name on a board; which boards a run has
pictures     a batch's views and a confusion matrix as pixels
tensorboard  event files, by default
wandb        Weights & Biases
mlflow       MLflow
trackio      Trackio
"""
