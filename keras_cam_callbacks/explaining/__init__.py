"""The verbs on a model, for people and callbacks: explain, look inside, check for sanity, plot."""
