"""Everything that ./test runs; a folder per room of the source, see docs/development.md."""
