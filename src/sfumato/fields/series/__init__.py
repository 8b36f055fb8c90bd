"""Time series: past values in, paths and quantiles of what comes next out; gaps filled by the same weights."""
