"""Networks, data and runs that several tests share."""
