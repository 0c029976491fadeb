"""What helps to test programs and engines: the contract suite lives in `skate.testing.contract`."""
