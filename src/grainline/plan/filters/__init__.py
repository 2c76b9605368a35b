"""Capacity of filter pipelines: rates, bytes, quality, power and price of messages that stages throw away."""
