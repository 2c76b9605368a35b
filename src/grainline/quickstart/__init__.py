"""From raw text to a trained, evaluated, ready-to-serve sparse model and a report: the main job, end to end.

`run.quickstart` goes through the stages; `budget` divides the time, `report` and `card` tell what came of it.
"""
