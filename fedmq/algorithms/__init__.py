"""Pure mathematics over named tensors: no I/O, no clock, no logging, no configuration."""
