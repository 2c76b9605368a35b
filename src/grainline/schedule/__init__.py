"""When things happen: task graphs, schedules, simulation. No torch here."""
