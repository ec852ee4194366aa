"""`python -m pipeline` is `realmix-data`."""

from pipeline.cli import main

main()
