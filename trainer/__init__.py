"""Stage 2: methods trained from stores, and what is done with the runs; see `trainer.api`."""
