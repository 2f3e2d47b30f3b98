"""How the lines of published scripts run in a test, and what is read afterwards."""

RUNS = {}
