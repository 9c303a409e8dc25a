"""commands/: one module a command. Each imports only what the command line needs; the work is imported when it is asked for."""
