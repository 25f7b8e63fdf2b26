"""The campaign that proves that nothing is lost: `scripts/chaos`; docs/guarantees.md holds its figures."""
