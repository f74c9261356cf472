"""The durability contract, attacked: kills, power cuts, failing calls, full disks, and mutants that must be caught."""
