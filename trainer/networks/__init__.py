"""Networks and their averages.

wide_resnet  WRN-d-k with BatchNorm over groups of rows
ema          exponential moving average of the weights
"""
