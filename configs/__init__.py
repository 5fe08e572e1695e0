"""Example configs, one run each; the wheel carries them as `fedmq.configs`."""
