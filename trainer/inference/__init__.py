"""A finished run at work.

predict     classes of image files
reevaluate  errors on another split
export      weights and a model card
onnx_graph  an ONNX graph
"""
