"""The command line `qgf-ref`: thin, one module for each command."""
