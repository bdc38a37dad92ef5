"""Running the model: taps, scores, captures, probes, channels and ascent. The only room that calls an engine."""
