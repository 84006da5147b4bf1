"""Audio files and signals: reading, writing, resampling, speech levels, downmixing."""
