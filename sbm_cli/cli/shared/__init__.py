"""What several commands share: options, the console, errors as text, signals, the account of a batch."""
