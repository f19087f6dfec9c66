"""Caffe nets that are shown images, and how often they are right."""
