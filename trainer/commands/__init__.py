"""The commands beside training: one module a group, each importing what it needs when it is called."""
