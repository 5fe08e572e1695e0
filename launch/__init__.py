"""Starting fedmq: the scripts of a checkout, and the launchers of worker processes (`fedmq.launch`)."""
