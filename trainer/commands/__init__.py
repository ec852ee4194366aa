"""The commands beside training: one module a group, each importing what it needs when it is called.

options    types and help texts that commands share
methods    `methods`
results    `eval`, `predict`, `export`, `report`
reproduce  `reproduce`
doctor     `doctor`
examine    what `doctor` looks at
"""
