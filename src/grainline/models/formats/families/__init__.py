"""One file per family: its config.json both ways, and its tensors' names. No torch here."""
