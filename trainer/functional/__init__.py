"""Pure functions of tensors and numbers that methods share.

ops             softmax, cross-entropy, MixUp, sharpening, interleaving
mixmatch        MixMatch's core: guess, mix, predict
masks           training-signal annealing, and the out-of-distribution mask
mismatch_share  share of foreign images, estimated from features
schedules       ramps and learning rates
"""
