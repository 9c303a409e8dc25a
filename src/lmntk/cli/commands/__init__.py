"""Commands, a module each, which imports only what the command line needs; what computes is imported when it is called."""
