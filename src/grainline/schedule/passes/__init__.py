"""What is put into a schedule or changed in it: messages, recomputation, offloading, split backwards, vocabulary."""
