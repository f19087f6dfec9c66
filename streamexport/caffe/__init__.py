"""Caffe's schema, as far as streamexport speaks it: `caffe.proto`, the module generated from it, and prototxt text.

`caffe_pb2.py` and its stub come from protoc 21, the last whose output loads under protobuf 4 to 7 alike:

    protoc -I. --python_out=. --pyi_out=. streamexport/caffe/caffe.proto        (grpcio-tools 1.51 has it)
"""
