"""`realmix-data`: makes stores from images. `pipeline.cli` is the command line."""
