"""A pipeline as a whole: started, checked, configured, served."""
