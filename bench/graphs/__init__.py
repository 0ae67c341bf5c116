"""The graphs without the service around them: bare sessions, batch invariance, random checkpoints, the stock tools."""
