"""What a network is worth: errors, calibration, foreign images.

evaluator       test and validation errors of averaged weights
scores          calibration, AUROC
assess          everything that is said of a finished run
mismatch_share  share of foreign images, estimated from features
"""
