"""What a model is made of: its layers, head, targets, biases and weights. Runs nothing."""
