"""From maps to pictures: uint8 RGB in and out. Loads no framework, reads no model."""
