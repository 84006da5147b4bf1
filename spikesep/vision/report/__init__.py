"""Results of image experiments: tables, figures and the results page."""
