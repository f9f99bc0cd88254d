"""What commands have in common: options, what is printed, processes, results that are kept."""
