"""Caffe as far as streamexport speaks it: its schema (`caffe.proto` and the module generated from it), what an operation is
called in its fields (`codec`), prototxt text, and model files, read (`models`) and written (`formats`).

`caffe_pb2.py` and its stub come from protoc 21, the last whose output loads under protobuf 4 to 7 alike:

    protoc -I. --python_out=. --pyi_out=. streamexport/caffe/caffe.proto        (grpcio-tools 1.51 has it)
"""
