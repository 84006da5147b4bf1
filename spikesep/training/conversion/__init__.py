"""Training loop of a conversion: examples, calibration, cached spikes, schedules."""
