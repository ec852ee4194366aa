"""What a network is worth: errors, calibration, foreign images.

evaluator  test and validation errors of averaged weights
scores     calibration, AUROC
open_set   known against foreign test images
assess     everything that is said of a finished run
predictor  outputs of the averaged network for the images of a run, for methods' hooks
"""
