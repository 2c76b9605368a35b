"""A schedule with costs as a task graph, and the graph played to its end."""
