"""Methods for pools in which some images belong to no class: their own heads say which ones."""
