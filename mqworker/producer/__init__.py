"""One stage's Producer: broker link, ledger, lanes, the fleet of Consumers, and what decides about them."""
