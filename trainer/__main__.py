"""`python -m trainer` is `realmix-train`."""

from trainer.cli import main

main()
