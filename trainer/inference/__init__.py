"""A finished run at work.

predict     classes of images, one by one
model       the same from Python
reevaluate  errors on another split
export      weights and a model card
onnx_graph  an ONNX graph
"""
