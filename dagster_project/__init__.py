"""The orchestration: definitions, resources, sensors, jobs and the command line. No stage logic belongs here."""
