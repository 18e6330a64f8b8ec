"""ONNX export and TensorRT engines of the vision stage: build, cache, gate, run. Knows the model, no ROS.

    network.py    the part of a model that becomes an engine, and the check value of its weights
    export.py     PyTorch → ONNX
    precision.py  float32 ONNX → float16, bfloat16 with float32 islands;  quantise.py: int8, fp8 by calibration
    builder.py    ONNX → TensorRT plan;  worker.py: the child process in which that happens;  guard.py: its memory limit
    cache.py      files with a key and a check sum;  gate.py: engine against PyTorch
    provide.py    all of these in order: "give me an engine of this model on this machine"
    runners.py    TensorRT and ONNX Runtime behind one call
"""
