"""The command line and the prompt: read statements, run them on a session, write what they yield as text."""
