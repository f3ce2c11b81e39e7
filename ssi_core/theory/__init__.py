"""The theory at work: each claim of the two papers that SSI rests on as one experiment."""
