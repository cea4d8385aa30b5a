"""The contact network: does a hand touch the garment, and what does it do to it. Arrays only, no tables, no video."""
