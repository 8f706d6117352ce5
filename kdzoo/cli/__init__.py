"""The command line: `main` starts it, `options` makes its options of the settings, one file a group of commands."""
