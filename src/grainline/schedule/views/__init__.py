"""Timelines to look at: pictures, Perfetto traces, words."""
