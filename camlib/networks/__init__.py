"""Networks: built, loaded from files of any origin, saved."""
