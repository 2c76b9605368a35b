"""What to do before doing it: pure functions of the documents. No torch here."""
