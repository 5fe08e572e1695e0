"""The protocol without I/O: messages, and state machines that turn events into commands."""
