"""FreeBSD guests: console, kernel environment, configuration disk. Not in this build."""
