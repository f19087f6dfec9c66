"""What a Caffe net takes: arithmetic, parameters and activations, as numbers and as a picture."""
