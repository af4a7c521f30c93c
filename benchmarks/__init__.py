"""What ./bench runs: `harness` holds what all share, every other module is one benchmark."""
