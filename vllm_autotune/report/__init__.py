"""The report and the plan as data, their JSON and its schema."""
