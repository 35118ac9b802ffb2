"""Tables, report and the run's manifest."""
