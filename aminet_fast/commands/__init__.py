"""The command ``aminet`` and its subcommands."""
