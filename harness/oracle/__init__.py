"""The oracle: attention in float64, and the error that rounding alone can explain."""
