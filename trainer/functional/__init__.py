"""Pure functions of tensors and numbers that methods share.

ops             softmax, cross-entropy, MixUp, sharpening, interleaving
mixmatch        MixMatch's core: guess, mix, predict
one_vs_all      losses and scores of a detector for each class
masks           training-signal annealing, and the out-of-distribution mask
walks           walks among neighbours that end where they meet a label
scorer          the default score of foreign images
foreign         share of foreign images, from walks
mismatch_share  share of foreign images, from features that were trained on the labels
ood_scores      the usual scores of foreign images
label_errors    labels that look wrong, images that are there twice
schedules       ramps and learning rates
"""
