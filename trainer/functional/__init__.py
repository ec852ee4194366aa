"""Pure functions of tensors and numbers that methods share.

ops        softmax, cross-entropy, MixUp, sharpening, interleaving
masks      training-signal annealing, and the out-of-distribution mask
schedules  ramps and learning rates
"""
