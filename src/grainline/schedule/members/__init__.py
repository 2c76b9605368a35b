"""The schedules, one file each: pure functions to lists of bare compute. `schedule.table` names them."""
