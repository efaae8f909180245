"""An encoder with a preference head: build it, save it, load it, predict with it."""
